"""Sums of reductions become reductions of sums: ``AR(a) + AR(b)`` is ``AR(a + b)``.

A sum over the ranks is linear. What is added, subtracted, negated, scaled by a number or viewed
otherwise on its way to another one can be so before it is reduced, and one collective does for all.
Backward graphs are full of them: the gradients of q, k and v are reduced one by one and then added.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.edits import Edits
from spfast.graphs import only_reader, targets_of
from spfast.journal import Journal
from spfast.operators import COPIES, VIEWS
from spfast.patterns import Registry
from spfast.per_registry import PerRegistry
from spfast.result import Merged
from spfast.strides import has_usual_strides
from spfast.suspicion import Suspicion
from spfast.targets import ByTarget, target_name
from spfast.writes import Writes

__all__ = ["SumMerger", "merger_of"]

_aten = torch.ops.aten
_BINARY = frozenset({_aten.add.Tensor, _aten.sub.Tensor})
_SCALINGS = frozenset({_aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar})
# The same elements under another shape, in an order that no value decides.
_VIEWS = VIEWS | {_aten.unsqueeze.default, _aten.squeeze.dim}
_UNARY = _VIEWS | COPIES | _SCALINGS | {_aten.neg.default}


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


@dataclass(frozen=True)
class _Reduction:
    """A reduction that one other operator reads.

    Attributes:
        call: The collective.
        value: The node that yields its result: its wait, or itself.
        keeps_shape: Whether it is an all_reduce.
        suspicion: How likely the graph thinks that what is reduced is one rank's part.
    """

    call: fx.Node
    value: fx.Node
    keeps_shape: bool
    suspicion: int

    @property
    def part(self) -> fx.Node:
        """This rank's part of the sum."""
        return self.call.args[0]  # type: ignore[return-value]

    def key(self) -> tuple[Any, ...]:
        """What two reductions have to share to be one."""
        return (self.call.target, str(self.call.args[1:]), self.suspicion)


@dataclass(frozen=True)
class _Linear:
    """A value that is linear in reductions of one kind, and of nothing else.

    Attributes:
        key: Their kind.
        leaves: The reductions.
        inner: The operators between them and the value, in an order in which operands come first.
        viewed: Whether one of these changes the shape.
    """

    key: tuple[Any, ...]
    leaves: tuple[_Reduction, ...]
    inner: tuple[fx.Node, ...] = ()
    viewed: bool = False


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
            for root, linear in _roots(edits, leaves, writes):
                merged.append(_merge(edits, root, linear))
            edits.finish()
        except BaseException:
            edits.journal.undo()
            raise
        return tuple(merged), edits.journal if edits.journal.entries else None

    def _may_merge(self, graph: fx.Graph) -> bool:
        """Whether some reduction meets, in a sum, what may be linear too.

        In a graph that is all sites, each meets a residual that others read as well: to see that
        costs little.
        """
        for call, how in self._calls(graph):
            value = call if how.wait is None else only_reader(call)
            if value is not None and _meets_another(value):
                return True
        return False

    def _leaves(self, graph: fx.Graph, writes: Writes) -> list[_Reduction]:
        """The reductions by summation that one operator reads, in graph order."""
        rated: dict[fx.Node, int] = {}
        found = (self._leaf(call, how, rated) for call, how in self._calls(graph))
        # The sum of the parts is made later than the reduction of one was.
        leaves = [leaf for leaf in found if leaf is not None and not writes.touch(leaf.part)]
        return sorted(leaves, key=lambda leaf: leaf.call)

    def _leaf(
        self, call: fx.Node, how: _Collective, rated: dict[fx.Node, int]
    ) -> _Reduction | None:
        """A reduction that adds up, if one operator reads it."""
        if call.kwargs or not call.args or not isinstance(call.args[0], fx.Node):
            return None
        at = how.reduce_op
        if at >= 0 and (len(call.args) <= at or call.args[at] != "sum"):
            return None
        value = call if how.wait is None else only_reader(call)
        if value is None or (how.wait is not None and target_name(value.target) != how.wait):
            return None
        if not _single(value) or not _is_dense(value):
            return None
        # An all_reduce of columns lies as one of what a rank makes of them by an operator that the
        # others lack: all ranks have to merge the same.
        if not how.keeps_shape and not _is_dense(call.args[0]):
            return None
        return _Reduction(call, value, how.keeps_shape, self._suspicion.of(call.args[0], rated))


def _roots(
    edits: Edits, leaves: Sequence[_Reduction], writes: Writes
) -> list[tuple[fx.Node, _Linear]]:
    """The largest sums of two reductions or more, in graph order."""
    known = {leaf.value: _Linear(leaf.key(), (leaf,)) for leaf in leaves}
    mixed: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}  # a sum: what is linear in it, what is not
    roots: dict[fx.Node, _Linear] = {}
    pending = [user for leaf in leaves for user in leaf.value.users]
    heapq.heapify(pending)  # operands before what reads them
    seen: set[fx.Node] = set()
    while pending:
        node = heapq.heappop(pending)
        if node in seen:
            continue
        seen.add(node)
        linear = _unary(node, known) or _binary(node, known)
        if linear is None:
            linear = _regroup(edits, node, known, mixed, writes)
            if linear is None:
                if node in mixed:
                    _follow(node, pending)
                continue
            _follow(node, pending)  # what was regrouped may be so again
            node = linear.inner[-1]
        known[node] = linear
        if node.target in _BINARY:
            for inner in linear.inner:
                roots.pop(inner, None)
            roots[node] = linear
        _follow(node, pending)
    return sorted(roots.items(), key=lambda item: item[0])


def _meets_another(value: fx.Node) -> bool:
    """Whether the sum that reads a value adds something that is read there alone."""
    user = only_reader(value)
    while user is not None and user.target in _UNARY:
        value, user = user, only_reader(user)
    if user is None or user.target not in _BINARY:
        return False
    following = only_reader(user)
    if following is not None and following.target in _BINARY:
        return True  # that sum may have another reduction
    return all(map(_single, user.all_input_nodes))


def _unary(node: fx.Node, known: dict[fx.Node, _Linear]) -> _Linear | None:
    """A view, a copy, a negation or a scaling of what is linear."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    linear = known.get(node.args[0])
    if linear is None or not _single(node.args[0]):
        return None
    if node.target in _VIEWS:
        if not linear.leaves[0].keeps_shape:
            return None
        viewed = True
    elif _keeps_linear(node):
        viewed = linear.viewed
    else:
        return None
    if not _alike(node, node.args[0], shape=node.target not in _VIEWS):
        return None
    return _Linear(linear.key, linear.leaves, (*linear.inner, node), viewed)


def _keeps_linear(node: fx.Node) -> bool:
    """Whether a call copies its operand, negates it or scales it by a number spelled out."""
    if node.target in _SCALINGS:
        return len(node.args) == 2 and not node.kwargs and type(node.args[1]) in (int, float)
    # A copy into another memory format is for whoever reads its memory.
    return node.target is _aten.neg.default or (node.target in COPIES and not node.kwargs)


def _binary(node: fx.Node, known: dict[fx.Node, _Linear]) -> _Linear | None:
    """A sum or difference of what is linear in reductions of one kind."""
    operands = _addends(node)
    if operands is None:
        return None
    left, right = (known.get(operand) for operand in operands)
    if left is None or right is None or left.key != right.key:
        return None
    if operands[0] is operands[1] or not all(_single(operand) for operand in operands):
        return None
    leaves, inner = (*left.leaves, *right.leaves), (*left.inner, *right.inner, node)
    return _Linear(left.key, leaves, inner, left.viewed or right.viewed)


def _regroup(
    edits: Edits,
    node: fx.Node,
    known: dict[fx.Node, _Linear],
    mixed: dict[fx.Node, tuple[fx.Node, fx.Node]],
    writes: Writes,
) -> _Linear | None:
    """Makes ``(r + p) + q`` the same as ``r + (p + q)``, where p and q are linear and r is not.

    That reads r later than the graph does: one that is written to somewhere stays where it is.
    """
    operands = _addends(node)
    if operands is None or node.target is not _aten.add.Tensor or node.kwargs:
        return None
    for linear, other in (operands, operands[::-1]):
        if linear not in known or other in known or not _single(linear) or writes.touch(other):
            continue
        inner = mixed.get(other)
        if inner is None or not _single(other) or known[inner[0]].key != known[linear].key:
            mixed[node] = (linear, other)
            return None
        first, rest = inner
        both = edits.create(node, node.target, (first, linear), {}, origin=node, value_of=node)
        edits.set_operands(node, (rest, both))
        edits.erase(other)
        del mixed[other]
        mixed[node] = (both, rest)
        found = _binary(both, known)
        assert found is not None
        return found
    return None


def _addends(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two operands of a sum or difference, where all three are of one shape and dtype."""
    if node.op != "call_function" or node.target not in _BINARY or len(node.args) != 2:
        return None
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    if any(key != "alpha" or type(item) not in (int, float) for key, item in node.kwargs.items()):
        return None
    return (left, right) if _alike(node, left) and _alike(node, right) else None


def _single(node: fx.Node) -> bool:
    return len(node.users) == 1


def _follow(node: fx.Node, pending: list[fx.Node]) -> None:
    """Has the one reader of a node looked at."""
    if (user := only_reader(node)) is not None:
        heapq.heappush(pending, user)


def _alike(node: fx.Node, operand: fx.Node, shape: bool = True) -> bool:
    """Whether two nodes hold tensors of one dtype, and of one shape, that lie as fresh ones do.

    Of operands that lie otherwise the first decides how a sum does: another order is another
    result.
    """
    if not _is_dense(node) or not _is_dense(operand):
        return False
    left, right = node.meta["val"], operand.meta["val"]
    if left.dtype != right.dtype or left.device != right.device:
        return False
    return not shape or _sizes(left) == _sizes(right)


def _is_dense(node: fx.Node) -> bool:
    """Whether a node holds a tensor with the strides of a fresh one."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and has_usual_strides(value)


def _sizes(value: torch.Tensor) -> tuple[str, ...]:
    return tuple(map(str, value.shape))


def _merge(edits: Edits, root: fx.Node, linear: _Linear) -> Merged:
    """Sums the parts in the way in which their reductions are summed, and reduces the result."""
    keeps_shape = linear.leaves[0].keeps_shape
    now: dict[fx.Node, fx.Node] = {leaf.value: leaf.part for leaf in linear.leaves}
    for node in linear.inner:
        if node.target in COPIES:  # the sum is a value of its own anyway
            now[node] = now[node.args[0]]  # type: ignore[index]
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda read: now.get(read, read))
        shown = None if keeps_shape else linear.leaves[0].part
        now[node] = edits.create(root, node.target, args, kwargs, origin=node, value_of=shown)
    kept = max(linear.leaves, key=lambda leaf: leaf.call)
    edits.set_operands(kept.call, (now[root], *kept.call.args[1:]))
    edits.replace_uses(root, kept.value)
    for node in dict.fromkeys((kept.call, kept.value)):
        edits.move(node, root)
        if keeps_shape and linear.viewed:
            edits.set_value(node, root)
    for node in reversed(linear.inner):
        edits.erase(node)
    gone = [leaf for leaf in linear.leaves if leaf is not kept]
    for leaf in gone:
        for node in dict.fromkeys((leaf.value, leaf.call)):
            edits.erase(node)
    return Merged(kept.call.name, tuple(leaf.call.name for leaf in gone))


# The merger of a registry's collectives.
merger_of = PerRegistry(SumMerger)
