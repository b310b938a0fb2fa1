"""What one graph shows of the values that it shares with another: that each rank has its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.verifier.context import Context, Meeting
from spfast.verifier.dims import Dims
from spfast.verifier.groups import Groups
from spfast.verifier.ranks import Call, Ranks, Same, calls_of, parts_of
from spfast.verifier.snapshot import Entry, Snapshot
from spfast.verifier.values import Kind, Store
from spfast.verifier.walk import walk

__all__ = ["own_across"]


@dataclass
class _Walked:
    """One graph, and the values of it of which others show that each rank has its own."""

    said: SequenceParallelConfig
    ctx: Context
    calls: Sequence[Call]
    own: set[fx.Node] = field(default_factory=set)

    def is_own(self, node: fx.Node) -> bool:
        """Whether each rank has its own of a value, by what it is computed from or read by."""
        if node in self.own:
            return True
        value = self.ctx.values[node]
        return any(
            ranks.of(value) is Same.LOCAL or ranks.contradictions for ranks in self._read(node)
        )

    def is_given_away(self, node: fx.Node) -> bool:
        """Whether some collective would be for nothing, were a value the same on every rank."""
        return any(ranks.contradictions for ranks in self._read(node))

    def _read(self, node: fx.Node) -> Iterator[Ranks]:
        """The graph on the ranks of each group, if they all had a value."""
        parts = [part for part in parts_of(self.ctx.values[node]) if part.kind is Kind.FULL]
        seeds = {part.term: Meeting(node, node.name, True) for part in parts}
        for group in {call.group for call in self.calls if call.group is not None} or {""}:
            ranks = Ranks(self.ctx, group, self.said.names_replicated, self.own, seeds)
            ranks.read(self.calls)
            yield ranks


def own_across(
    was: Snapshot,
    groups: Groups,
    said: SequenceParallelConfig,
    harmless: Mapping[str, Collection[str]],
) -> dict[str, set[fx.Node]]:
    """Returns the values that one graph shows to be another on each rank, for the others.

    Args:
        was: The original graph, with those that it calls.
        groups: Their groups.
        said: What the caller says.
        harmless: By path, as :func:`spfast.verifier.verify` gives it: the graphs that write to
            nothing.

    Returns:
        By path, with a dot at its end but for the outermost: nodes of that graph.
    """
    walked: dict[str, _Walked] = {}
    for path, entries in _graphs(was):
        at = f"{path}." if path else ""
        ctx = Context(Store(), Dims(), groups, is_after=False, harmless=harmless.get(at, ()))
        walk(ctx, entries)
        walked[path] = _Walked(said.inside(at), ctx, list(calls_of(ctx, entries)))
    changed = True
    while changed:
        changed = False
        for pair in was.crossings:
            (source, one), (sink, other) = pair
            own = walked[source].is_own(one)
            if own and not walked[sink].is_own(other):
                walked[sink].own.add(other)
                changed = True
            # What comes from one source says nothing of another one: those who read it do.
            elif not own and walked[sink].is_given_away(other):
                walked[source].own.add(one)
                changed = True
    return {f"{path}." if path else "": each.own for path, each in walked.items()}


def _graphs(was: Snapshot) -> list[tuple[str, Sequence[Entry]]]:
    called = was.called or {}
    return [("", was.entries), *((path, each.entries) for path, each in called.items())]
