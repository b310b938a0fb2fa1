"""Whether what meets one rank's rows is the same on every rank: proved, assumed, or contradicted.

A rank's rows of a result are rows of *one* result only if everything that was computed with is the
same on every rank. The original graph is read once more for it, by what its operators mean across
ranks. What cannot be proved is assumed, and then asked of the graph: were all that is assumed true,
would some collective reduce or gather a value that is the same everywhere? Nobody writes that, so
the graph contradicts the assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from torch import fx

from spfast.trust import Assumption
from spfast.verifier.across import (
    OTHER_AFTER,
    SAME_AFTER,
    Across,
    Does,
    Exchange,
    exchange,
    group_of,
    operands_that_count,
    what_it_does,
)
from spfast.verifier.context import Context, Meeting
from spfast.verifier.dims import is_data
from spfast.verifier.snapshot import Entry
from spfast.verifier.values import Kind, Value

__all__ = ["Same", "Trust", "judge"]


class Same(Enum):
    """What is known of a value on the ranks of a group."""

    PROVED = auto()  # the same on all
    ROWS = auto()  # the same on all if the assumptions hold; with a row for each token
    WHOLE = auto()  # likewise, without such rows
    UNKNOWN = auto()
    LOCAL = auto()  # another on each


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
) -> Trust:
    """Judges every full value that meets rows of one rank.

    Args:
        original: The finished walk over the original graph.
        entries: The original graph.
        meetings: What meets rows of a group, by the group and the term.
        is_named: Whether the caller says that an input is the same on every rank.
        may_assume: Whether what is unknown may be assumed.
    """
    problems: list[tuple[fx.Node, str]] = []
    assumed: dict[str, Assumption] = {}
    if not meetings:
        return Trust((), ())
    calls = list(_calls(original, entries))
    names = _Names(original)
    for group in dict.fromkeys(group for group, _ in meetings):
        met = {term: meeting for (other, term), meeting in meetings.items() if other == group}
        # What is proved, and what is local, is so whatever is assumed besides.
        ranks = _Ranks(original, group, is_named, met if may_assume else {})
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


def _local(name: str, ranks: _Ranks, term: int) -> str:
    source = ranks.sources.get((term, Kind.FULL), name)
    return (
        f"meets rows of one rank, but {name!r} is another value on every rank: "
        f"it comes from {source!r}"
    )


def _contradicted(found: _Contradiction, names: _Names, seeds: Mapping[int, Meeting]) -> str:
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
            for part in _parts(value):
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


# --- the original graph, call by call ---


class _Call(NamedTuple):
    """One node: what it does, what it reads as it is then, and what it yields."""

    node: fx.Node
    op: str
    what: Across
    group: str | None
    exchange: Exchange | None
    operands: tuple[Value, ...]
    result: Value
    effects: Sequence[int]  # the terms of what it does besides
    row_wise: bool


def _calls(ctx: Context, entries: Sequence[Entry]) -> Iterator[_Call]:
    effects = {**{node: [term] for term, node in ctx.effects}, **ctx.apart}
    wrong, values, opaque, reads = ctx.store.wrong, ctx.values, ctx.opaque, ctx.reads
    for node, op, target, args, kwargs, _ in entries:
        if op == "output":
            continue
        what = what_it_does(op, target)
        counted = operands_that_count(what, target, args, kwargs)
        if counted is None:
            what, counted = Across(Does.ANYTHING), []
        then = reads.get(node, values) if reads else values
        is_collective = what.group is not None
        yield _Call(
            node,
            op,
            what,
            group_of(what, args, kwargs) if is_collective else None,
            exchange(what, args, kwargs) if is_collective else None,
            tuple([then.get(operand, wrong) for operand in counted]),
            values[node],
            effects.get(node, ()),
            node not in opaque,
        )


def _parts(value: Value) -> Iterator[Value]:
    """The values in a tuple, however deep, or behind a wait."""
    stack = [value]
    while stack:
        one = stack.pop()
        if one.kind in (Kind.TUPLE, Kind.PENDING):
            stack.extend(part for part in one.parts if part is not None)
        else:
            yield one


@dataclass(frozen=True)
class _Contradiction:
    """A collective that would reduce or gather equal values, and the terms that it comes from."""

    node: str
    exchange: Exchange
    terms: tuple[int, ...]


@dataclass
class _Ranks:
    """What each term of the original graph is on the ranks of one group, given assumptions."""

    ctx: Context
    group: str
    is_named: Callable[[fx.Node], bool]
    seeds: Mapping[int, Meeting] = field(default_factory=dict)
    known: dict[int, Same] = field(default_factory=dict)
    effects: dict[int, Same] = field(default_factory=dict)
    # Of a term that is LOCAL, held whole or as a chunk: the node that it is from.
    sources: dict[tuple[int, Kind], str] = field(default_factory=dict)
    parents: dict[int, list[int]] = field(default_factory=dict)  # of an assumed term
    contradictions: list[_Contradiction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._inside: dict[str, bool] = {self.group: True}

    def _is_among(self, group: str | None) -> bool:
        """Whether a group is this one, or lies within it.

        What all ranks of this one share, those of a group within it do; what each rank of that has
        for itself, not all ranks of this one share.
        """
        if group is None:
            return False
        if group not in self._inside:
            self._inside[group] = self.ctx.groups.lies_within(group, self.group)
        return self._inside[group]

    def read(self, calls: Sequence[_Call]) -> None:
        """Takes in the graph's nodes in their order."""
        for call in calls:
            found = self._result(call)
            if call.exchange is not None and self._is_among(call.exchange.group):
                self._ask(call, call.exchange)
            for effect in call.effects:
                self.effects[effect] = found
            result = call.result
            if result.kind is Kind.FULL:
                if found is not Same.UNKNOWN or result.term in self.seeds:
                    self._set(call, result, found)
                continue
            for part in _parts(result):
                self._set(call, part, found)

    def of(self, value: Value) -> Same:
        """What is known of a value."""
        if value.kind is Kind.FULL:
            return self.of_term(value.term)
        if value.kind is Kind.SCALAR:
            if not is_data(value.number):
                return Same.PROVED
            return self.known.get(value.term, Same.UNKNOWN)
        if value.kind in (Kind.SHARD, Kind.PART):
            return Same.LOCAL if self._is_among(value.group) else Same.UNKNOWN
        if value.kind is Kind.WRONG:
            return Same.UNKNOWN
        return _together([self.of(part) for part in _parts(value)], row_wise=True)

    def of_term(self, term: int) -> Same:
        """What is known of a full value by its term."""
        known = self.known.get(term)
        if known is not None:
            return known
        store, found = self.ctx.store, Same.UNKNOWN
        if term in store.writes:
            write = store.writes[term]
            found = self.effects.get(write.effect, Same.UNKNOWN)
            if not write.is_whole:
                found = _together([self.known.get(write.base, Same.UNKNOWN), found], row_wise=True)
        elif term in store.blocks:
            found = self.of_term(store.blocks[term][0])
        return self._seeded(term, found)

    def _seeded(self, term: int, found: Same) -> Same:
        meeting = self.seeds.get(term)
        if meeting is None or found in (Same.PROVED, Same.LOCAL):
            return found
        return Same.ROWS if meeting.has_rows else Same.WHOLE

    def _result(self, call: _Call) -> Same:
        does = call.what.does
        if call.op in ("placeholder", "get_attr"):
            return Same.PROVED if self.is_named(call.node) else Same.UNKNOWN
        if does is Does.RANK:
            return Same.LOCAL
        if does in SAME_AFTER:
            return Same.PROVED if call.group == self.group else Same.UNKNOWN
        if does in OTHER_AFTER:
            return Same.LOCAL if self._is_among(call.group) else Same.UNKNOWN
        if does is Does.ANYTHING:
            return Same.UNKNOWN
        return _together([self.of(value) for value in call.operands], call.row_wise)

    def _set(self, call: _Call, part: Value, found: Same) -> None:
        term = part.term
        if found is Same.LOCAL:
            came = (self._source(value) for value in call.operands)
            source = next((name for name in came if name), call.node.name)
            self.sources.setdefault((term, part.kind), source)
        if part.kind in (Kind.SHARD, Kind.PART) or term in self.ctx.store.writes:
            return  # told by what it is
        found = self._seeded(term, found)
        if found is Same.UNKNOWN or self.known.get(term) is Same.PROVED:
            return
        self.known[term] = found
        if found in (Same.ROWS, Same.WHOLE) and term not in self.seeds:
            self.parents[term] = self._assumed(call.operands)

    def _source(self, value: Value) -> str:
        found = (self.sources.get((part.term, part.kind)) for part in _parts(value))
        return next((name for name in found if name), "")

    def _assumed(self, values: Collection[Value]) -> list[int]:
        """The terms among values, and under what was written to them, that are assumed."""
        found: list[int] = []
        stack = [part.term for value in values for part in _parts(value)]
        while stack:
            term = stack.pop()
            if self.known.get(term) in (Same.ROWS, Same.WHOLE) or term in self.seeds:
                found.append(term)
            elif term in self.ctx.store.blocks:
                stack.append(self.ctx.store.blocks[term][0])
            elif term in self.ctx.store.writes:
                stack.append(self.ctx.store.writes[term].base)
        return found

    def _ask(self, call: _Call, made: Exchange) -> None:
        """Notes a contradiction if a collective's operand would be the same on every rank."""
        for value in call.operands:
            for part in _parts(value):
                same = self.of(part)
                if same is Same.ROWS or (same is Same.WHOLE and made.changes_equal_values):
                    roots = self._roots(part)
                    if roots:
                        name = call.node.name
                        self.contradictions.append(_Contradiction(name, made, roots))

    def _roots(self, value: Value) -> tuple[int, ...]:
        """The assumptions that a value follows from."""
        seen: dict[int, None] = {}
        stack = self._assumed([value])
        while stack:
            term = stack.pop()
            if term in seen:
                continue
            seen[term] = None
            stack.extend(self.parents.get(term, ()))
        return tuple(sorted(term for term in seen if term in self.seeds))


def _together(operands: Sequence[Same], row_wise: bool) -> Same:
    """What is known of a function of values."""
    if Same.LOCAL in operands:
        return Same.LOCAL
    if Same.UNKNOWN in operands:
        return Same.UNKNOWN
    if Same.ROWS in operands:
        return Same.ROWS if row_wise else Same.WHOLE
    return Same.WHOLE if Same.WHOLE in operands else Same.PROVED
