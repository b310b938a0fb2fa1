"""What a graph's collectives move: bytes a rank, at the example sizes, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tests.pool.kept import hint
from tests.pool.lockstep import is_collective, tensors
from tests.pool.world import World

# An all_reduce is a reduce_scatter and an all_gather of the same size, in bytes and in number.
TIMES = {"all_reduce": 2}


@dataclass(frozen=True)
class Cost:
    """Bytes that a rank sends, and the number of collectives."""

    bytes: float = 0
    collectives: int = 0


def cost(graph: fx.Graph, world: World, original: fx.Graph) -> Cost:
    """The cost of a graph, or of what a rewrite made of the original, by ``meta["val"]``.

    A rewrite makes an all_reduce only where it finishes a sum over tokens of which each rank has a
    part. That is one number a feature, however many the tokens are: beside the few of a drawn graph
    it says nothing, and is left out.
    """
    names = {node.name for node in original.nodes}
    moved, count = 0.0, 0
    for node in graph.nodes:
        if node.op != "call_function" or not is_collective(node.target):
            continue
        kind = kind_of(node.target)
        if node.name not in names and kind == "all_reduce" and _is_sum(node.args[0]):
            continue
        size = world.group_size(str(node.args[-1]))
        whole = node.meta["val"] if kind == "all_gather" else value_of(node.args[0])
        full = sum(bytes_of(tensor) for tensor in tensors(whole))
        moved += TIMES.get(kind, 1) * full * (size - 1) / size
        # A call of several tensors is launched once.
        count += TIMES.get(kind, 1)
    return Cost(moved, count)


def _is_sum(operand: Any) -> bool:
    return isinstance(operand, fx.Node) and operand.target is torch.ops.aten.sum.dim_IntList


def kind_of(target: Any) -> str:
    """The kind of a collective, whatever its form."""
    name = target.__name__.split(".")[0]
    for kind in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast"):
        if name.startswith(kind):
            return kind
    return str(name)


def value_of(operand: Any) -> Any:
    """The fake value of an operand, or of each of several."""
    return fx.node.map_arg(operand, lambda node: node.meta["val"])


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a fake tensor at the example sizes."""
    total = tensor.dtype.itemsize
    for size in tensor.shape:
        total *= hint(size) or 0
    return total
