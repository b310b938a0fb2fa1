"""Marks on a joint graph that tell torch's partitioner what a backward computes again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

__all__ = ["GATHER", "gather_again", "is_tangent", "norm_again"]

GATHER = torch.ops._c10d_functional.all_gather_into_tensor.default
# The key under which the partitioner reads what has to be computed again.
_POLICY = "recompute"
# Operators besides views that yield their operand as it is, or in another shape.
_MOVES = frozenset(
    {
        torch.ops._c10d_functional.wait_tensor.default,
        torch.ops.aten.reshape.default,
        torch.ops.aten.view.dtype,
    }
)


def gather_again(graph: fx.Graph, before: set[fx.Node]) -> None:
    """Marks gathers of the pass in the forward that the backward reads, to be made twice.

    The partitioner saves the result of every collective without a mark. A mark that is not needed
    would make it save what nobody reads.

    Args:
        graph: a joint graph.
        before: the gathers that it had before the pass.
    """
    backward = _backward_of(graph)
    for gather in graph.find_nodes(op="call_function", target=GATHER):
        if gather in before or gather in backward:
            continue
        forward = [gather]  # with its wait and the views of that, which are all that reads it
        for node in forward:
            forward += [user for user in node.users if user not in backward and _moves(user)]
        if any(user in backward for node in forward for user in node.users):
            for node in forward:
                node.meta[_POLICY] = CheckpointPolicy.MUST_RECOMPUTE


def norm_again(graph: fx.Graph, before: set[fx.Node]) -> None:
    """Marks what every rank makes in full of the step's inputs, point by point, to be made twice.

    Before the first reduction no rank has rows of its own. So the result of the first norm is whole
    on every rank, and the backward of a product reads it. The partitioner would save this result,
    for it is in memory anyway. To make it again costs no collective: it reads an input that is
    there.

    Args:
        graph: a joint graph.
        before: the gathers that it had before the pass.
    """
    backward = _backward_of(graph)
    gathers = graph.find_nodes(op="call_function", target=GATHER)
    gathered = {_rows(node) for node in gathers if node not in before} - {None}
    made: set[fx.Node] = set()
    for node in graph.nodes:
        if node in backward:
            continue
        if node.op == "placeholder" or _is_statistic(node):
            made.add(node)
        elif (_moves(node) or _is_pointwise(node)) and made.issuperset(node.all_input_nodes):
            made.add(node)
            if _rows(node) in gathered and any(user in backward for user in node.users):
                _mark(node)


def _mark(node: fx.Node) -> None:
    """Marks a node, and what it is a view of."""
    while node.op == "call_function":
        node.meta.setdefault(_POLICY, CheckpointPolicy.MUST_RECOMPUTE)
        if not _moves(node):
            return
        node = node.all_input_nodes[0]


def _backward_of(graph: fx.Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if is_tangent(node) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def is_tangent(node: fx.Node) -> bool:
    """Whether an input is the gradient of an output, as AOTAutograd names it."""
    return node.op == "placeholder" and str(node.target).startswith("tangents_")


def _moves(node: fx.Node) -> bool:
    """Whether a node yields what it reads, or a view of it."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target.is_view or node.target in _MOVES


def _is_pointwise(node: fx.Node) -> bool:
    target: Any = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def _is_statistic(node: fx.Node) -> bool:
    """Whether a value has at most one number a row: such a value is small, and saved."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and (value.dim() == 0 or _is_one(value.shape[-1]))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _rows(node: fx.Node) -> tuple[int, int] | None:
    """The rows of a value and their length; None where they are symbolic, or it has none."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return None
    if not all(isinstance(size, int) for size in value.shape):
        return None
    return math.prod(value.shape[:-1]), value.shape[-1]
