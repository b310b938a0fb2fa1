"""Sums of reductions become reductions of sums: ``AR(a) + AR(b)`` is ``AR(a + b)``.

A sum over the ranks is linear. A reduced value may be added, subtracted, negated, scaled by a
number or viewed on its way to another one. All of this can be done before the reduction, and then
one collective is enough. Backward graphs are full of such sums: the gradients of q, k and v are
reduced one by one and then added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from spfast.fxgraph.edits import Edits
from spfast.fxgraph.graphs import only_reader, targets_of
from spfast.fxgraph.journal import Journal
from spfast.fxgraph.operators import COPIES
from spfast.fxgraph.targets import ByTarget, target_name
from spfast.fxgraph.writes import Writes
from spfast.patterns import Registry
from spfast.patterns.per_registry import PerRegistry
from spfast.result import Merged
from spfast.sums.linear import Reduction, Sum, is_dense, is_single, largest_sums, meets_another
from spfast.sums.suspicion import Suspicion

__all__ = ["SumMerger", "merger_of"]


@dataclass(frozen=True)
class _Collective:
    """How a dialect spells a reduction.

    Attributes:
        wait: The operator that yields its result; None: itself.
        reduce_op: The position of the reduce op; -1: always a sum.
        keeps_shape: Whether it is an all_reduce, not a reduce_scatter.
    """

    wait: str | None
    reduce_op: int
    keeps_shape: bool


class SumMerger:
    """Finds and merges the sums of reductions that a registry's dialects can spell.

    Args:
        registry: Says which collectives there are.
    """

    def __init__(self, registry: Registry) -> None:
        reductions: dict[str, _Collective] = {}
        for family in registry.families():
            slots = family.reduce_scatter_args
            scatter_op = slots.index("reduce_op") if "reduce_op" in slots else -1
            wait = family.wait
            reductions[family.all_reduce] = _Collective(wait, family.reduce_op, True)
            reductions[family.reduce_scatter] = _Collective(wait, scatter_op, False)
        self._reductions = ByTarget(reductions)
        self._suspicion = Suspicion(registry)

    def has_scatters(self, graph: fx.Graph) -> bool:
        """Whether a graph calls a reduce_scatter."""
        found = map(self._reductions.get, targets_of(graph))
        return any(each is not None and not each.keeps_shape for each in found)

    def _calls(self, graph: fx.Graph) -> Iterator[tuple[fx.Node, _Collective]]:
        """Every reduction of a graph, one operator after the other."""
        for target in targets_of(graph):
            how = self._reductions.get(target)
            if how is not None:
                for call in graph.find_nodes(op="call_function", target=target, sort=False):
                    yield call, how

    def merge(self, graph: fx.Graph) -> tuple[tuple[Merged, ...], Journal | None]:
        """Merges what can be, in place.

        Returns:
            One record for each reduction that is left of several, in graph order, and what takes
            all of it back; None where nothing was changed.
        """
        if not self._may_merge(graph):
            return (), None
        writes = Writes(graph)
        leaves = self._leaves(graph, writes)
        edits = Edits(graph)
        merged = []
        try:
            for root, total in largest_sums(edits, leaves, writes):
                merged.append(_merge(edits, root, total))
            edits.finish()
        except BaseException:
            edits.journal.undo()
            raise
        return tuple(merged), edits.journal if edits.journal.entries else None

    def _may_merge(self, graph: fx.Graph) -> bool:
        """Whether some reduction meets, in a sum, what may be linear too.

        This is cheap to see. In a usual forward graph each reduction meets a residual that others
        read as well, and nothing has to be looked at further.
        """
        for call, how in self._calls(graph):
            value = call if how.wait is None else only_reader(call)
            if value is not None and meets_another(value):
                return True
        return False

    def _leaves(self, graph: fx.Graph, writes: Writes) -> list[Reduction]:
        """The reductions by summation that one operator reads, in graph order."""
        rated: dict[fx.Node, int] = {}
        found = (self._leaf(call, how, rated) for call, how in self._calls(graph))
        # The parts are read later than before, when their sum is made. So none may be written to.
        leaves = [leaf for leaf in found if leaf is not None and not writes.touch(leaf.part)]
        return sorted(leaves, key=lambda leaf: leaf.call)

    def _leaf(self, call: fx.Node, how: _Collective, rated: dict[fx.Node, int]) -> Reduction | None:
        """A reduction that adds up, if one operator reads it."""
        if call.kwargs or not call.args or not isinstance(call.args[0], fx.Node):
            return None
        at = how.reduce_op
        if at >= 0 and (len(call.args) <= at or call.args[at] != "sum"):
            return None
        value = call if how.wait is None else only_reader(call)
        if value is None or (how.wait is not None and target_name(value.target) != how.wait):
            return None
        if not is_single(value) or not is_dense(value):
            return None
        # The layout of the operand is checked only for a reduce_scatter. All ranks have to merge
        # the same, and another rank may compute the operand of an all_reduce by other operators,
        # with other strides.
        if not how.keeps_shape and not is_dense(call.args[0]):
            return None
        return Reduction(call, value, how.keeps_shape, self._suspicion.of(call.args[0], rated))


def _merge(edits: Edits, root: fx.Node, total: Sum) -> Merged:
    """Sums the parts in the way in which their reductions are summed, and reduces the result."""
    keeps_shape = total.leaves[0].keeps_shape
    now: dict[fx.Node, fx.Node] = {leaf.value: leaf.part for leaf in total.leaves}
    for node in total.inner:
        if node.target in COPIES:  # the sum is a value of its own anyway
            now[node] = now[node.args[0]]  # type: ignore[index]
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda read: now.get(read, read))
        shown: fx.Node | None = total.leaves[0].part
        if keeps_shape:
            shown = root if node is root else None  # the root has the value that it had
        now[node] = edits.create(root, node.target, args, kwargs, origin=node, value_of=shown)
    kept = max(total.leaves, key=lambda leaf: leaf.call)
    edits.set_operands(kept.call, (now[root], *kept.call.args[1:]))
    edits.replace_uses(root, kept.value)
    for node in dict.fromkeys((kept.call, kept.value)):
        edits.move(node, root)
        if keeps_shape and total.viewed:
            edits.set_value(node, root)
    edits.take_value(kept.value, root)
    for node in reversed(total.inner):
        edits.erase(node)
    gone = [leaf for leaf in total.leaves if leaf is not kept]
    for leaf in gone:
        for node in dict.fromkeys((leaf.value, leaf.call)):
            edits.erase(node)
    return Merged(kept.call.name, tuple(leaf.call.name for leaf in gone))


# The merger of a registry's collectives.
merger_of = PerRegistry(SumMerger)
