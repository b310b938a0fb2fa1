"""Whether what meets one rank's rows is the same on every rank: proved, assumed, or contradicted.

A rank's rows of a result are rows of *one* result only if all other operands are the same on every
rank. So the original graph is read once more, for what its operators mean across ranks. What cannot
be proved is assumed, and the graph is asked: if all assumptions were true, would some collective
reduce or gather a value that is the same everywhere? Nobody writes such a collective, so it
contradicts the assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from spfast.trust import Assumption
from spfast.verifier.context import Context, Meeting
from spfast.verifier.names import Names
from spfast.verifier.parts import has_parts, parts_shown_by_readers
from spfast.verifier.ranks import Contradiction, Ranks, Same, Shown, calls_of, parts_of
from spfast.verifier.snapshot import Entry
from spfast.verifier.stand_ins import StandIns
from spfast.verifier.values import Kind, Value

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
    rewritten: Context,
    rewritten_entries: Sequence[Entry],
    is_named: Callable[[fx.Node], bool],
    may_assume: bool,
    shown: Shown,
) -> Trust:
    """Judges every full value that meets rows of one rank.

    Args:
        original: The finished walk over the original graph.
        entries: The original graph.
        rewritten: The finished walk over the rewritten graph.
        rewritten_entries: The rewritten graph.
        is_named: Whether the caller says that an input is the same on every rank.
        may_assume: Whether what is unknown may be assumed.
        shown: What other graphs show of its values.
    """
    problems: list[tuple[fx.Node, str]] = []
    assumed: dict[str, Assumption] = {}
    meetings = {**original.met, **rewritten.met}
    parts = has_parts(entries)
    held = list(_shards(rewritten)) if parts else []
    apart = [value.group for _, value in held]
    groups = dict.fromkeys([*(group for group, _ in meetings), *apart])
    if not groups:
        return Trust((), ())
    calls = list(calls_of(original, entries))
    names = Names(original)
    stand_ins = StandIns(names, rewritten, rewritten_entries)
    for group in groups:
        met = stand_ins.of(
            group, {term: met for (other, term), met in meetings.items() if other == group}
        )
        # What is proved, and what is local, does not depend on the assumptions.
        ranks = Ranks(original, group, is_named, shown, met if may_assume else {})
        if parts:
            ranks.own = parts_shown_by_readers(entries, calls, ranks.is_among)
        ranks.read(calls)
        problems += _own_parts(ranks, original, held)
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
            # A constant counts as the same on all ranks, unless a collective were for nothing then.
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
    problems += stand_ins.problems
    order = names.order()
    listed = sorted(assumed.values(), key=lambda one: order.get(one.value, len(order)))
    return Trust(tuple(problems), tuple(listed))


def _shards(rewritten: Context) -> Iterator[tuple[fx.Node, Value]]:
    for node, value in rewritten.values.items():
        yield from ((node, part) for part in parts_of(value) if part.kind is Kind.SHARD)


def _own_parts(
    ranks: Ranks, original: Context, held: Sequence[tuple[fx.Node, Value]]
) -> Iterator[tuple[fx.Node, str]]:
    """The nodes that hold one rank's rows of a part of every row that differs from rank to rank."""
    terms = {part.term: node for node in ranks.own for part in parts_of(original.values[node])}
    for node, value in held:
        if value.group == ranks.group and value.term in terms:
            part = terms[value.term]
            yield (
                node,
                f"holds one rank's rows of {part.name!r}, but each rank takes another part of "
                f"every row: {ranks.own[part]!r} would else be for nothing",
            )


def _local(name: str, ranks: Ranks, term: int) -> str:
    source = ranks.sources.get((term, Kind.FULL), name)
    return (
        f"meets rows of one rank, but {name!r} is another value on every rank: "
        f"it comes from {source!r}"
    )


def _contradicted(found: Contradiction, names: Names, seeds: Mapping[int, Meeting]) -> str:
    said = [repr(names.of(term, seeds[term])) for term in found.terms]
    subject = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    cannot = "cannot" if len(said) == 1 else "cannot all"
    return (
        f"meets rows of one rank, but {subject} {cannot} be the same on every rank, "
        f"for then {found.node!r} {found.exchange.of_equals()}"
    )
