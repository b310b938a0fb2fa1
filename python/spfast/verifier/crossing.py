"""Values that two graphs share, where one of the graphs shows that each rank has its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.verifier.called import written_inside
from spfast.verifier.context import Context, Meeting
from spfast.verifier.dims import Dims
from spfast.verifier.groups import Groups
from spfast.verifier.kinds import Writes
from spfast.verifier.ranks import Call, Contradiction, Ranks, Same, Shown, Told, calls_of, parts_of
from spfast.verifier.snapshot import Entry, Snapshot
from spfast.verifier.values import Kind, Store, Value
from spfast.verifier.walk import walk

__all__ = ["shown_across"]


def shown_across(
    was: Snapshot, groups: Groups, said: SequenceParallelConfig, writes: Mapping[str, Writes]
) -> dict[str, Shown]:
    """Returns what the other graphs show of each graph's values.

    Args:
        was: The original graph, with those that it calls.
        groups: Their groups.
        said: What the caller says.
        writes: By path, what each called graph writes to.

    Returns:
        By path, with a dot at its end but for the outermost.
    """
    walked: dict[str, _Walked] = {}
    for path, entries in _graphs(was):
        at = f"{path}." if path else ""
        called = written_inside(writes, at)
        ctx = Context(Store(), Dims(), groups, is_after=False, called=called)
        walk(ctx, entries)
        calls = list(calls_of(ctx, entries))
        walked[path] = _Walked(at, said.inside(at), ctx, calls, output=entries[-1][0])
    changed = True
    while changed:
        changed = False
        for each in was.crossings:
            (source, one), (sink, other) = each.source, each.sink
            if walked[source].is_own(one) or walked[source].is_own_at_last(one):
                changed |= walked[sink].tell_own(other)
            # Where a value comes from several sources, only its readers show something of each one.
            elif (shows := walked[sink].gives_away(other)) is not None:
                name = f"{walked[sink].at}{shows.node}"
                told = Told(one, shows.exchange, name)
                changed |= walked[source].tell_given(each.call if each.is_operand else None, told)
            if each.is_operand and walked[sink].is_own_at_last(other):
                changed |= walked[source].tell_own(each.call)
    return {each.at: each.shown for each in walked.values()}


@dataclass
class _Walked:
    """One graph, and what others show of its values."""

    at: str
    said: SequenceParallelConfig
    ctx: Context
    calls: Sequence[Call]
    output: fx.Node
    shown: Shown = field(default_factory=Shown)
    # What was found from what is shown so far. It is forgotten when more is shown.
    _read: list[Ranks] = field(default_factory=list)
    _given: dict[fx.Node, Contradiction | None] = field(default_factory=dict)

    def tell_own(self, node: fx.Node) -> bool:
        """Notes that a value is different on each rank; returns whether that is new."""
        if node in self.shown.own:
            return False
        self.shown.own.add(node)
        self._forget()
        return True

    def tell_given(self, call: fx.Node | None, told: Told) -> bool:
        """Notes that another graph gives away what a call, or the output, hands on to it."""
        known = self.shown.given.setdefault(self.output if call is None else call, set())
        if told in known:
            return False
        known.add(told)
        self._forget()
        return self.tell_own(told.operand) or True

    def is_own(self, node: fx.Node) -> bool:
        """Whether each rank has its own of a value, by what it is computed from or read by."""
        return self._is_local(self.ctx.values[node]) or self.gives_away(node) is not None

    def is_own_at_last(self, node: fx.Node) -> bool:
        """Whether each rank has its own of what was last written to the value's memory."""
        last = self.ctx.read(node)
        return last is not self.ctx.values[node] and self._is_local(last)

    def gives_away(self, node: fx.Node) -> Contradiction | None:
        """The collective that would be for nothing, were a value the same on every rank."""
        if node not in self._given:
            parts = [part for part in parts_of(self.ctx.values[node]) if part.kind is Kind.FULL]
            seeds = {part.term: Meeting(node, node.name, True) for part in parts}
            found = (each for ranks in self._ranks(seeds) for each in ranks.contradictions)
            self._given[node] = next(found, None)
        return self._given[node]

    def _is_local(self, value: Value) -> bool:
        self._read = self._read or list(self._ranks({}))
        return any(ranks.of(value) is Same.LOCAL for ranks in self._read)

    def _ranks(self, seeds: Mapping[int, Meeting]) -> Iterator[Ranks]:
        """The graph on the ranks of each group, if they all had some values."""
        told = (each.exchange.group for given in self.shown.given.values() for each in given)
        groups = {call.group for call in self.calls if call.group is not None} | set(told)
        for group in sorted(groups) or [""]:
            ranks = Ranks(self.ctx, group, self.said.names_replicated, self.shown, seeds)
            ranks.read(self.calls)
            yield ranks

    def _forget(self) -> None:
        self._read.clear()
        self._given.clear()


def _graphs(was: Snapshot) -> list[tuple[str, Sequence[Entry]]]:
    called = was.called or {}
    return [("", was.entries), *((path, each.entries) for path, each in called.items())]
