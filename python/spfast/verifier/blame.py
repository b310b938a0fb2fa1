"""Which node is to blame when a result is not what it was."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.layout import reads_memory, strides_of
from spfast.verifier.snapshot import Entry
from spfast.verifier.values import Kind, Value

__all__ = ["Blame"]


class Blame:
    """Traces a wrong result back to the first node that the original graph has no equal of."""

    def __init__(
        self, before: Context, after: Context, old: Sequence[Entry], new: Sequence[Entry]
    ) -> None:
        self._before, self._after = before, after
        self._order = {entry[0]: place for place, entry in enumerate(new)}
        self._names: dict[object, str] | None = None
        self._old = {entry[0].name: entry for entry in old}

    def reads_reported(self, node: fx.Node) -> bool:
        """Whether ``node`` reads a value that is wrong for a reason that is reported already."""
        values = self._after.values
        read = [values.get(operand) for operand in node.all_input_nodes]
        return any(value is None or value.kind is Kind.WRONG for value in read)

    def culprit(self, node: fx.Node) -> fx.Node | None:
        """Returns the first node, among all that ``node`` needs, that computes something new."""
        return self._first_new([node])

    def culprit_of_operands(self, node: fx.Node) -> fx.Node | None:
        """Returns the first such node among all that the operands of ``node`` need."""
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
        if old is not None and old[2] is node.target:
            # A node that was edited in place has other operands now. The snapshot has the old ones.
            then: list[fx.Node] = []
            fx.node.map_arg((old[3], old[4]), then.append)
            now: list[fx.Node] = []
            fx.node.map_arg((node.args, node.kwargs), now.append)
            for before, after in zip(then, now, strict=False):
                if self._whole(before, self._before) != self._whole(after, self._after):
                    return (
                        f"reads {after.name!r}, which holds {self.origin(after)}, "
                        f"where it read {before.name!r}"
                    )
            if len(then) == len(now):
                lay = [self._before.vals.get(each) for each in then]
                lie = [self._after.vals.get(each) for each in now]
                dims = self._after.dims
                if reads_memory(node.target) and strides_of(dims, lay) != strides_of(dims, lie):
                    return "reads memory in which its operands lie otherwise than before"
                return "has other literals than in the original graph"
        return "computes something that the original graph does not compute"

    def origin(self, node: fx.Node) -> str:
        """Says what a node of the rewritten graph holds, in names of the original one."""
        if self._names is None:
            self._names = {}
            for old, value in self._before.values.items():
                self._names.setdefault(_contents(value), old.name)
        found = self._names.get(_contents(self._after.values[node]))
        return f"what {found!r} held" if found else "nothing that the original graph has"

    def is_same_elsewhere_shaped(self, before: Value, after: Value) -> bool:
        """Whether two values hold the same elements in the same order, under different shapes."""
        return after.kind is before.kind is Kind.FULL and after.term == before.term

    def _is_known(self, node: fx.Node) -> bool:
        value = self._after.values.get(node)
        return value is not None and self._after.store.is_known(value)

    @staticmethod
    def _whole(node: fx.Node, ctx: Context) -> object:
        return _contents(ctx.values[node])


def _contents(value: Value) -> object:
    """What a value holds, regardless of how much of it this rank has."""
    if value.kind in (Kind.FULL, Kind.SHARD):
        return value.term
    return value
