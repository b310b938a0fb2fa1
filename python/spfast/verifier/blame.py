"""Which node is to blame when a result is not what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.snapshot import Entry
from spfast.verifier.values import Kind, Value

__all__ = ["Blame"]


class Blame:
    """Traces a wrong result back to the first node that the original graph has no equal of."""

    def __init__(self, before: Context, after: Context, entries: Sequence[Entry]) -> None:
        self._before, self._after = before, after
        self._order = {entry[0]: place for place, entry in enumerate(entries)}
        self._names: Mapping[Value, str] | None = None
        self._old: Mapping[str, fx.Node] = {node.name: node for node in before.values}

    def reads_reported(self, node: fx.Node) -> bool:
        """Whether ``node`` reads a value that is wrong for a reason that is reported already."""
        values = self._after.values
        read = [values.get(operand) for operand in node.all_input_nodes]
        return any(value is None or value.kind is Kind.WRONG for value in read)

    def culprit(self, node: fx.Node) -> fx.Node | None:
        """Returns the first node, among all that ``node`` needs, that computes something new."""
        return self._first_new([node])

    def culprit_of_operands(self, node: fx.Node) -> fx.Node | None:
        """Returns the same for what ``node`` reads, leaving out the node itself."""
        return self._first_new(node.all_input_nodes)

    def _first_new(self, nodes: list[fx.Node]) -> fx.Node | None:
        new: list[fx.Node] = []
        seen, stack = set(nodes), list(nodes)
        while stack:
            current = stack.pop()
            if self._is_known(current):
                continue
            new.append(current)
            for operand in current.all_input_nodes:
                if operand not in seen:
                    seen.add(operand)
                    stack.append(operand)
        return min(new, key=self._order.__getitem__, default=None)

    def reason(self, node: fx.Node) -> str:
        """Says what is wrong at a culprit: which operand is not what it was."""
        old = self._old.get(node.name)
        if old is not None and old.target is node.target:
            then, now = old.all_input_nodes, node.all_input_nodes
            for before, after in zip(then, now, strict=False):
                if self._whole(before, self._before) != self._whole(after, self._after):
                    return (
                        f"reads {after.name!r}, which holds {self.origin(after)}, "
                        f"where it read {before.name!r}"
                    )
            if len(then) == len(now):
                return "has other literals than in the original graph"
        return "computes something that the original graph does not compute"

    def origin(self, node: fx.Node) -> str:
        """Says what a node of the rewritten graph holds, in names of the original one."""
        if self._names is None:
            names: dict[object, str] = {}
            for old, value in self._before.values.items():
                names.setdefault(_contents(value), old.name)
            self._names = names  # type: ignore[assignment]
        value = self._after.values[node]
        found = self._names.get(_contents(value))  # type: ignore[call-overload,union-attr]
        return f"what {found!r} held" if found else "nothing that the original graph has"

    def _is_known(self, node: fx.Node) -> bool:
        value = self._after.values.get(node)
        return value is not None and self._after.store.is_known(value)

    @staticmethod
    def _whole(node: fx.Node, ctx: Context) -> object:
        return _contents(ctx.values[node])


def _contents(value: Value) -> object:
    """What a value holds, whoever holds how much of it."""
    if value.kind in (Kind.FULL, Kind.SHARD):
        return value.term
    return value
