"""What each value of a graph is on the ranks of one group: the same, or another on each.

This is read from what the operators mean across ranks. A value differs over some group. A
collective over that group may make it the same again; a collective over another group leaves it as
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import fx

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
from spfast.verifier.snapshot import Entry
from spfast.verifier.values import Kind, Value

__all__ = ["Contradiction", "Ranks", "Same", "Shown", "Told", "calls_of", "parts_of"]


class Same(Enum):
    """What is known of a value on the ranks of a group."""

    PROVED = auto()  # the same on all
    ROWS = auto()  # the same on all if the assumptions hold; with a row for each token
    WHOLE = auto()  # likewise, without such rows
    UNKNOWN = auto()
    LOCAL = auto()  # another on each


class Call(NamedTuple):
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


def calls_of(ctx: Context, entries: Sequence[Entry]) -> Iterator[Call]:
    """The nodes of a finished walk, in their order."""
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
        yield Call(
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


def parts_of(value: Value) -> Iterator[Value]:
    """The values in a tuple, however deep, or behind a wait."""
    stack = [value]
    while stack:
        one = stack.pop()
        if one.kind in (Kind.TUPLE, Kind.PENDING):
            stack.extend(part for part in one.parts if part is not None)
        else:
            yield one


@dataclass(frozen=True)
class Contradiction:
    """A collective that would reduce or gather equal values, and the terms that it comes from."""

    node: str
    exchange: Exchange
    terms: tuple[int, ...]


class Told(NamedTuple):
    """What another graph shows of a value: its collective would be for nothing on equal ones."""

    operand: fx.Node
    exchange: Exchange
    name: str  # of the collective, after the path of its graph


@dataclass
class Shown:
    """What other graphs show of the values of one.

    Attributes:
        own: The values that are different on each rank; for a call, what it writes is different.
        given: What other graphs give away, by the node that hands it on: a call or the output.
    """

    own: set[fx.Node] = field(default_factory=set)
    given: dict[fx.Node, set[Told]] = field(default_factory=dict)


@dataclass
class Ranks:
    """What each term of the original graph is on the ranks of one group, given assumptions."""

    ctx: Context
    group: str
    is_named: Callable[[fx.Node], bool]
    shown: Shown = field(default_factory=Shown)
    seeds: Mapping[int, Meeting] = field(default_factory=dict)
    doubts: bool = False  # whether constants are seeds like others
    own: Mapping[fx.Node, str] = field(default_factory=dict)  # parts of rows, each rank another
    known: dict[int, Same] = field(default_factory=dict)
    effects: dict[int, Same] = field(default_factory=dict)
    written: dict[int, list[int]] = field(default_factory=dict)  # assumed terms that effects write
    # For each LOCAL term, held whole or as a chunk: the node that it comes from.
    sources: dict[tuple[int, Kind], str] = field(default_factory=dict)
    # For each such term: the groups over which it differs. None stands for any group.
    apart: dict[tuple[int, Kind], frozenset[str | None]] = field(default_factory=dict)
    parents: dict[int, list[int]] = field(default_factory=dict)  # of an assumed term
    contradictions: list[Contradiction] = field(default_factory=list)
    # Terms that are computed from literals and sizes alone. The graph of another rank may have
    # other literals.
    constants: set[int] = field(default_factory=set)
    # For a value that other graphs show to be each rank's own: what would be known of it
    # otherwise, and from which terms.
    unshown: dict[fx.Node, tuple[Same, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._inside: dict[str, bool] = {self.group: True}
        self._crossing: dict[str, bool] = {}

    def is_among(self, group: str | None) -> bool:
        """Whether a group is this one, or lies within it.

        What all ranks of this group share, the ranks of a group within it share, too. What each
        rank of the inner group has for itself is not shared by all ranks of this one.
        """
        if group is None:
            return False
        if group not in self._inside:
            self._inside[group] = self.ctx.groups.lies_within(group, self.group)
        return self._inside[group]

    def _is_crossed(self, group: str | None) -> bool:
        """Whether a collective over ``group`` leaves this group's ranks as alike as before.

        It does if each rank of ``group`` is in another group of this kind, as on a mesh's axes.
        """
        if group is None:
            return False
        if group not in self._crossing:
            self._crossing[group] = self.ctx.groups.cross(group, self.group)
        return self._crossing[group]

    def read(self, calls: Sequence[Call]) -> None:
        """Takes in the graph's nodes in their order."""
        for call in calls:
            found = self._result(call)
            if call.node in self.own:
                found = Same.LOCAL
            if call.node in self.shown.own:
                self.unshown[call.node] = (found, self._assumed(call.operands))
                found = Same.LOCAL
            if call.exchange is not None and self.is_among(call.exchange.group):
                self._ask(call.node.name, call.exchange, call.operands)
            if call.node in self.shown.given:
                self._ask_others(call.node, self.ctx.reads.get(call.node, self.ctx.values))
            for effect in call.effects:
                self.effects[effect] = found
                if found in (Same.ROWS, Same.WHOLE):
                    self.written[effect] = self._assumed(call.operands)
            result = call.result
            if found is Same.PROVED and self._is_constant(call):
                self.constants.update(part.term for part in parts_of(result))
            if result.kind is Kind.FULL:
                if found is not Same.UNKNOWN or result.term in self.seeds:
                    self._set(call, result, found)
                continue
            for part in parts_of(result):
                self._set(call, part, found)
        for node in self.shown.given:
            if node.op == "output":
                told = self.shown.given[node]
                self._ask_others(node, {each.operand: self.ctx.read(each.operand) for each in told})

    def _is_constant(self, call: Call) -> bool:
        """Whether a call computes of literals, sizes and other constants alone."""
        if call.op != "call_function" or call.what.group is not None:
            return False
        return all(
            part.kind is Kind.SCALAR or part.term in self.constants
            for value in call.operands
            for part in parts_of(value)
        )

    def of(self, value: Value) -> Same:
        """What is known of a value."""
        if value.kind is Kind.FULL:
            return self.of_term(value.term)
        if value.kind is Kind.SCALAR:
            if not self.ctx.store.is_data(value.number):
                return Same.PROVED
            return self.known.get(value.term, Same.UNKNOWN)
        if value.kind in (Kind.SHARD, Kind.PART):
            if not self._is_crossed(value.group):
                return Same.LOCAL
            return self.of_term(value.term) if value.kind is Kind.SHARD else Same.UNKNOWN
        if value.kind is Kind.WRONG:
            return Same.UNKNOWN
        return _together([self.of(part) for part in parts_of(value)], row_wise=True)

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
        if meeting is None or found is Same.LOCAL:
            return found
        if found is Same.PROVED and not (self.doubts and term in self.constants):
            return found
        return Same.ROWS if meeting.has_rows else Same.WHOLE

    def _result(self, call: Call) -> Same:
        does = call.what.does
        if call.op in ("placeholder", "get_attr"):
            return Same.PROVED if self.is_named(call.node) else Same.UNKNOWN
        if does is Does.RANK:
            return Same.LOCAL
        if does is Does.ANYTHING:
            # A called graph itself tells what it makes of a rank's own value.
            calls_no_graph = isinstance(call.node.target, torch._ops.OpOverload)
            own = any(self.of(value) is Same.LOCAL for value in call.operands)
            return Same.LOCAL if own and calls_no_graph else Same.UNKNOWN
        if does in SAME_AFTER and call.group == self.group:
            return Same.PROVED
        if does in OTHER_AFTER and not self._is_crossed(call.group):
            return Same.LOCAL
        # A value that is computed from a rank's own literals alone is its own in every row.
        by_rows = call.row_wise or (self.doubts and self._is_constant(call))
        found = _together([self.of(value) for value in call.operands], by_rows)
        if does in SAME_AFTER or does in OTHER_AFTER:
            return self._after_another(call, found)
        return found

    def _after_another(self, call: Call, found: Same) -> Same:
        """What is known after a collective over another group, if ``found`` was before."""
        if found is Same.LOCAL:
            return Same.LOCAL if self._apart_after(call) else Same.UNKNOWN
        # Groups that cross as on a mesh are enough for a contradiction, but not for a proof.
        return Same.UNKNOWN if found is Same.PROVED else found

    def _apart_after(self, call: Call) -> frozenset[str | None]:
        """The groups over which the result of a call differs."""
        does = call.what.does
        if does is Does.RANK or call.node in self.shown.own or call.node in self.own:
            return frozenset([None])
        before = frozenset[str | None]().union(*(self._apart(value) for value in call.operands))
        if does in SAME_AFTER:
            return before - {call.group}
        if does in OTHER_AFTER and not self._is_crossed(call.group):
            return before | {call.group}
        return before

    def _apart(self, value: Value) -> frozenset[str | None]:
        found: set[str | None] = set()
        for part in parts_of(value):
            if self.of(part) is not Same.LOCAL:
                continue
            known = self.apart.get((part.term, part.kind))
            if known is not None:
                found |= known
            elif part.kind in (Kind.SHARD, Kind.PART):
                found.add(part.group)
            else:
                found.add(None)
        return frozenset(found)

    def _set(self, call: Call, part: Value, found: Same) -> None:
        term = part.term
        if found is Same.LOCAL:
            came = (self._source(value) for value in call.operands)
            source = next((name for name in came if name), call.node.name)
            self.sources.setdefault((term, part.kind), source)
            self.apart.setdefault((term, part.kind), self._apart_after(call))
        told = part.kind in (Kind.SHARD, Kind.PART) and not self._is_crossed(part.group)
        if told or part.kind is Kind.PART or term in self.ctx.store.writes:
            return  # told by what it is
        found = self._seeded(term, found)
        if found is Same.UNKNOWN or self.known.get(term) is Same.PROVED:
            return
        self.known[term] = found
        if found in (Same.ROWS, Same.WHOLE) and term not in self.seeds:
            self.parents.setdefault(term, self._assumed(call.operands))  # a wait makes no other

    def _source(self, value: Value) -> str:
        found = (self.sources.get((part.term, part.kind)) for part in parts_of(value))
        return next((name for name in found if name), "")

    def _assumed(self, values: Collection[Value]) -> list[int]:
        """The assumed terms among values, what was written to these, and what they are rows of."""
        found: list[int] = []
        stack = [part.term for value in values for part in parts_of(value)]
        while stack:
            term = stack.pop()
            if self.known.get(term) in (Same.ROWS, Same.WHOLE) or term in self.seeds:
                found.append(term)
            elif term in self.ctx.store.blocks:
                stack.append(self.ctx.store.blocks[term][0])
            elif term in self.ctx.store.writes:
                write = self.ctx.store.writes[term]
                found.extend(self.written.get(write.effect, ()))
                if not write.is_whole:
                    stack.append(write.base)
        return found

    def _ask_others(self, node: fx.Node, values: Mapping[fx.Node, Value]) -> None:
        """Asks the collectives of other graphs about what a node hands on to these graphs."""
        for told in sorted(self.shown.given[node], key=lambda each: each.name):
            if not self.is_among(told.exchange.group):
                continue
            if told.operand in self.unshown:
                self._contradict(told.name, told.exchange, *self.unshown[told.operand])
            self._ask(told.name, told.exchange, [values[told.operand]])

    def _ask(self, name: str, made: Exchange, operands: Collection[Value]) -> None:
        """Notes a contradiction if a collective's operand would be the same on every rank."""
        for value in operands:
            for part in parts_of(value):
                same = self.of(part)
                if same in (Same.ROWS, Same.WHOLE):
                    self._contradict(name, made, same, self._assumed([part]))

    def _contradict(self, name: str, made: Exchange, same: Same, terms: list[int]) -> None:
        if same is Same.ROWS or (same is Same.WHOLE and made.changes_equal_values):
            roots = self._roots(terms)
            if roots:
                self.contradictions.append(Contradiction(name, made, roots))

    def _roots(self, terms: Collection[int]) -> tuple[int, ...]:
        """The assumptions that terms follow from."""
        seen: dict[int, None] = {}
        stack = list(terms)
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
