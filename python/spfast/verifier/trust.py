"""Whether what meets one rank's rows is the same on every rank: proved, assumed, or contradicted.

A rank's rows of a result are rows of *one* result only if everything that was computed with is the
same on every rank. The original graph is read once more for it, by what its operators mean across
ranks. What cannot be proved is assumed, and then asked of the graph: were all that is assumed true,
would some collective reduce or gather a value that is the same everywhere? Nobody writes that, so
the graph contradicts the assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from spfast.trust import Assumption
from spfast.verifier.context import Context, Meeting
from spfast.verifier.ranks import Contradiction, Ranks, Same, Shown, calls_of, parts_of
from spfast.verifier.snapshot import Entry
from spfast.verifier.values import Kind

__all__ = ["Trust", "judge"]


@dataclass(frozen=True)
class Trust:
    """What was found out about everything that meets one rank's rows.

    Attributes:
        problems: Nodes with the reason why they may not.
        assumptions: The values that are taken to be the same on every rank.
    """

    problems: tuple[tuple[fx.Node, str], ...]
    assumptions: tuple[Assumption, ...]


def judge(
    original: Context,
    entries: Sequence[Entry],
    meetings: Mapping[tuple[str, int], Meeting],
    is_named: Callable[[fx.Node], bool],
    may_assume: bool,
    shown: Shown,
) -> Trust:
    """Judges every full value that meets rows of one rank.

    Args:
        original: The finished walk over the original graph.
        entries: The original graph.
        meetings: What meets rows of a group, by the group and the term.
        is_named: Whether the caller says that an input is the same on every rank.
        may_assume: Whether what is unknown may be assumed.
        shown: What other graphs show of its values.
    """
    problems: list[tuple[fx.Node, str]] = []
    assumed: dict[str, Assumption] = {}
    if not meetings:
        return Trust((), ())
    calls = list(calls_of(original, entries))
    names = _Names(original)
    for group in dict.fromkeys(group for group, _ in meetings):
        met = {term: meeting for (other, term), meeting in meetings.items() if other == group}
        # What is proved, and what is local, is so whatever is assumed besides.
        ranks = Ranks(original, group, is_named, shown, met if may_assume else {})
        ranks.read(calls)
        seeds: dict[int, Meeting] = {}
        for term, meeting in met.items():
            known = ranks.of_term(term)
            if known is Same.PROVED:
                continue
            if known is Same.LOCAL:
                problems.append((meeting.node, _local(names.of(term, meeting), ranks, term)))
            elif not may_assume:
                reason = "meets rows of one rank but is not proved the same on every rank"
                problems.append((meeting.node, reason))
            elif (base := names.written(term)) is not None:
                reason = (
                    f"meets rows of one rank after {base!r} was written to: "
                    f"only what has a name of its own may be assumed"
                )
                problems.append((meeting.node, reason))
            else:
                seeds[term] = meeting
        doubted = {term: met[term] for term in met if term in ranks.constants}
        if doubted:
            # A constant is what all ranks have, unless a collective would then be for nothing.
            doubts = Ranks(original, group, is_named, shown, doubted, doubts=True)
            doubts.read(calls)
            problems += [
                (doubted[found.terms[0]].node, _contradicted(found, names, doubted))
                for found in doubts.contradictions
            ]
        accused = {term for found in ranks.contradictions for term in found.terms}
        for found in ranks.contradictions:
            first = found.terms[0]
            problems.append((seeds[first].node, _contradicted(found, names, seeds)))
        for term, meeting in seeds.items():
            if term not in accused:
                name = names.of(term, meeting)
                assumed.setdefault(name, Assumption(name, meeting.describe(), group))
    order = names.order()
    listed = sorted(assumed.values(), key=lambda one: order.get(one.value, len(order)))
    return Trust(tuple(problems), tuple(listed))


def _local(name: str, ranks: Ranks, term: int) -> str:
    source = ranks.sources.get((term, Kind.FULL), name)
    return (
        f"meets rows of one rank, but {name!r} is another value on every rank: "
        f"it comes from {source!r}"
    )


def _contradicted(found: Contradiction, names: _Names, seeds: Mapping[int, Meeting]) -> str:
    said = [repr(names.of(term, seeds[term])) for term in found.terms]
    subject = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    cannot = "cannot" if len(said) == 1 else "cannot all"
    return (
        f"meets rows of one rank, but {subject} {cannot} be the same on every rank, "
        f"for then {found.node!r} {found.exchange.of_equals()}"
    )


class _Names:
    """Names of nodes of the original graph that hold a term."""

    def __init__(self, original: Context) -> None:
        self._names: dict[int, str] = {}
        self._original = original
        for node, value in original.values.items():
            for part in parts_of(value):
                if part.kind in (Kind.FULL, Kind.SCALAR):
                    self._names.setdefault(part.term, node.name)

    def of(self, term: int, meeting: Meeting) -> str:
        store = self._original.store
        while term not in self._names:
            if term in store.writes:
                term = store.writes[term].base
            elif term in store.blocks:
                term = store.blocks[term][0]
            else:
                return meeting.node.name
        return self._names[term]

    def written(self, term: int) -> str | None:
        """The name of what a value is, that no node has, since it was written to."""
        store = self._original.store
        while term in store.blocks and term not in self._names:
            term = store.blocks[term][0]
        if term in self._names or term not in store.writes:
            return None
        while term in store.writes:
            term = store.writes[term].base
        return self._names.get(term, "a value")

    def order(self) -> dict[str, int]:
        return {node.name: place for place, node in enumerate(self._original.values)}
