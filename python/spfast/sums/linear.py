"""Values that are linear in reductions, and the largest sums of these that a graph has."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.edits import Edits
from spfast.fxgraph.graphs import only_reader
from spfast.fxgraph.operators import COPIES, VIEWS
from spfast.fxgraph.strides import has_usual_strides
from spfast.fxgraph.writes import Writes

__all__ = ["Reduction", "Sum", "is_dense", "is_single", "largest_sums", "meets_another"]

_aten = torch.ops.aten
_BINARY = frozenset({_aten.add.Tensor, _aten.sub.Tensor})
_SCALINGS = frozenset({_aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar})
# Operators that yield the same elements under another shape, in an order that no value decides.
_VIEWS = VIEWS | {_aten.unsqueeze.default, _aten.squeeze.dim}
_UNARY = _VIEWS | COPIES | _SCALINGS | {_aten.neg.default}


@dataclass(frozen=True)
class Reduction:
    """A reduction that one other operator reads.

    Attributes:
        call: The collective.
        value: The node that yields its result: its wait, or itself.
        keeps_shape: Whether it is an all_reduce.
        suspicion: How likely it is, judging by the graph, that the operand is one rank's part.
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


@dataclass(frozen=True, eq=False)
class _Linear:
    """A value that is linear in reductions of one kind, and of nothing else.

    Attributes:
        key: The kind of the reductions.
        node: The node that holds the value.
        operands: The linear values that it is computed from; empty for a reduction.
        leaf: The reduction, where the value is one.
        keeps_shape: Whether the reductions are all_reduces.
        viewed: Whether some operator on the way changes the shape.
    """

    key: tuple[Any, ...]
    node: fx.Node
    operands: tuple[_Linear, ...]
    leaf: Reduction | None
    keeps_shape: bool
    viewed: bool = False


@dataclass
class Sum:
    """A sum of reductions.

    Attributes:
        leaves: The reductions.
        inner: The operators between them and the sum, in an order in which operands come first.
        viewed: Whether one of these changes the shape.
    """

    leaves: list[Reduction]
    inner: list[fx.Node]
    viewed: bool

    @classmethod
    def of(cls, linear: _Linear) -> Sum:
        """All that a value is computed from."""
        leaves: list[Reduction] = []
        inner: list[fx.Node] = []
        pending = [linear]
        while pending:
            each = pending.pop()
            if each.leaf is not None:
                leaves.append(each.leaf)
                continue
            inner.append(each.node)
            pending += each.operands
        return cls(leaves[::-1], inner[::-1], linear.viewed)


def largest_sums(
    edits: Edits, leaves: Sequence[Reduction], writes: Writes
) -> list[tuple[fx.Node, Sum]]:
    """The largest sums of two reductions or more, in graph order."""
    known = {
        leaf.value: _Linear(leaf.key(), leaf.value, (), leaf, leaf.keeps_shape) for leaf in leaves
    }
    mixed: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}  # a sum: what is linear in it, what is not
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
            node = linear.node
        known[node] = linear
        _follow(node, pending)
    found = {}
    covered: set[fx.Node] = set()
    for node in sorted(known, reverse=True):  # what reads a value before the value
        if node.target in _BINARY and node not in covered:
            found[node] = Sum.of(known[node])
            covered.update(found[node].inner)
    return [*reversed(found.items())]


def _unary(node: fx.Node, known: dict[fx.Node, _Linear]) -> _Linear | None:
    """A view, a copy, a negation or a scaling of what is linear."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    linear = known.get(node.args[0])
    if linear is None or not is_single(node.args[0]):
        return None
    if node.target in _VIEWS:
        if not linear.keeps_shape:
            return None
        viewed = True
    elif _keeps_linear(node):
        viewed = linear.viewed
    else:
        return None
    if not _alike(node, node.args[0], shape=node.target not in _VIEWS):
        return None
    return _Linear(linear.key, node, (linear,), None, linear.keeps_shape, viewed)


def _keeps_linear(node: fx.Node) -> bool:
    """Whether a call copies its operand, negates it or scales it by a number spelled out."""
    if node.target in _SCALINGS:
        return len(node.args) == 2 and not node.kwargs and type(node.args[1]) in (int, float)
    # A copy into another memory format is kept, for something may read its memory.
    return node.target is _aten.neg.default or (node.target in COPIES and not node.kwargs)


def _binary(node: fx.Node, known: dict[fx.Node, _Linear]) -> _Linear | None:
    """A sum or difference of what is linear in reductions of one kind."""
    operands = _addends(node)
    if operands is None:
        return None
    left, right = (known.get(operand) for operand in operands)
    if left is None or right is None or left.key != right.key:
        return None
    if operands[0] is operands[1] or not all(is_single(operand) for operand in operands):
        return None
    viewed = left.viewed or right.viewed
    return _Linear(left.key, node, (left, right), None, left.keeps_shape, viewed)


def _regroup(
    edits: Edits,
    node: fx.Node,
    known: dict[fx.Node, _Linear],
    mixed: dict[fx.Node, tuple[fx.Node, fx.Node]],
    writes: Writes,
) -> _Linear | None:
    """Makes ``(r + p) + q`` the same as ``r + (p + q)``, where p and q are linear and r is not.

    Then r is read later than before. So an r that is written to somewhere stays where it is.
    """
    operands = _addends(node)
    if operands is None or node.target is not _aten.add.Tensor or node.kwargs:
        return None
    for linear, other in (operands, operands[::-1]):
        if linear not in known or other in known or not is_single(linear) or writes.touch(other):
            continue
        inner = mixed.get(other)
        if inner is None or not is_single(other) or known[inner[0]].key != known[linear].key:
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


def is_single(node: fx.Node) -> bool:
    """Whether one node reads a value."""
    return len(node.users) == 1


def _follow(node: fx.Node, pending: list[fx.Node]) -> None:
    """Has the one reader of a node looked at."""
    if (user := only_reader(node)) is not None:
        heapq.heappush(pending, user)


def _alike(node: fx.Node, operand: fx.Node, shape: bool = True) -> bool:
    """Whether two nodes hold tensors of one dtype, and of one shape, that lie as fresh ones do.

    Where operands lie otherwise, the first one decides the layout of a sum. Then another order of
    operands would give another result.
    """
    if not is_dense(node) or not is_dense(operand):
        return False
    left, right = node.meta["val"], operand.meta["val"]
    if left.dtype != right.dtype or left.device != right.device:
        return False
    return not shape or _sizes(left) == _sizes(right)


def is_dense(node: fx.Node) -> bool:
    """Whether a node holds a tensor with the strides of a fresh one."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and has_usual_strides(value)


def _sizes(value: torch.Tensor) -> tuple[str, ...]:
    return tuple(map(str, value.shape))


def meets_another(value: fx.Node) -> bool:
    """Whether the sum that reads a value adds something that is read there alone."""
    user = only_reader(value)
    while user is not None and user.target in _UNARY:
        value, user = user, only_reader(user)
    if user is None or user.target not in _BINARY:
        return False
    following = only_reader(user)
    if following is not None and following.target in _BINARY:
        return True  # that sum may have another reduction
    return all(map(is_single, user.all_input_nodes))
