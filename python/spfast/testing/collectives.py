"""What a collective op asks of the ranks of its group, and the answer, computed on one machine.

:func:`read_call` turns a call of a collective op into a :class:`CollectiveCall`; :func:`perform`
takes the calls of all ranks of a group, in rank order, and gives each rank its result. Sums are
taken in rank order, elementwise, so that an all_reduce and the reduce_scatter that takes its place
agree to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spfast.ranks.groups import group_name

_FUNCTIONAL = "_c10d_functional"
_NAMESPACES = ("vllm", _FUNCTIONAL, "_c10d_functional_autograd", "c10d_functional")


@dataclass(frozen=True)
class CollectiveCall:
    """One rank's call of a collective.

    Attributes:
        kind: "all_reduce", "reduce_scatter", "all_gather", "all_to_all" or "broadcast".
        group: the name of the group, as the graph spells it.
        tensor: the operand on this rank.
        reduce_op: "sum", "avg", "max", "min" or "product"; "" where nothing is reduced.
        dim: the dimension that is scattered or gathered.
        world_size: the number of ranks the op was told; 0 where it is not an argument.
        out: a tensor that the result is written to as well (in-place and out variants), or None.
        source: the root rank of a broadcast.
        splits: of an all_to_all, how many rows go to each rank; empty for equal parts.
    """

    kind: str
    group: str
    tensor: torch.Tensor
    reduce_op: str = ""
    dim: int = 0
    world_size: int = 0
    out: torch.Tensor | None = None
    source: int = 0
    splits: tuple[int, ...] = ()

    def agreement(self) -> dict[str, Any]:
        """What every rank of the group must say alike."""
        return {
            "collective": self.kind,
            "reduce op": self.reduce_op,
            "dim": self.dim,
            "world size": self.world_size,
            "shape": () if self.kind == "all_to_all" else tuple(self.tensor.shape),
            "dtype": self.tensor.dtype,
            "source": self.source,
        }


def collective_name(target: object) -> str | None:
    """Returns "namespace::name" when ``target`` is an op of a namespace of collectives, else None.

    Example:
        >>> import torch
        >>> collective_name(torch.ops.aten.add.Tensor) is None
        True
    """
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name: str = target._schema.name
    return name if name.split("::", 1)[0] in _NAMESPACES else None


def is_wait(name: str) -> bool:
    """Whether the op only waits for a result that is there already."""
    return name.endswith("::wait_tensor")


def read_call(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CollectiveCall | None:
    """Reads a call of a collective; None when the op is none that moves data between ranks.

    Args:
        target: the op overload.
        args: its positional arguments, with real tensors.
        kwargs: its keyword arguments, with real tensors.

    Raises:
        NotImplementedError: a collective that the kit does not simulate.
    """
    name = collective_name(target)
    if name is None or is_wait(name):
        return None
    namespace, op = name.split("::", 1)
    bound = _bind(target, args, kwargs)
    if namespace == "vllm":
        return _read_vllm(op, bound)
    group = group_name(bound.get("group_name"))
    tensor = bound.get("input", bound.get("inp", bound.get("self")))
    if not isinstance(tensor, torch.Tensor):
        raise NotImplementedError(f"{name} is not simulated: only collectives of one tensor are")
    size = int(bound.get("group_size", 0))
    reduce_op = str(bound.get("reduce_op", ""))
    out = bound.get("out")
    if op == "all_reduce":
        return CollectiveCall("all_reduce", group, tensor, reduce_op)
    if op == "all_reduce_":
        return CollectiveCall("all_reduce", group, tensor, reduce_op, out=tensor)
    if op in ("reduce_scatter_tensor", "reduce_scatter_tensor_out"):
        return CollectiveCall("reduce_scatter", group, tensor, reduce_op, world_size=size, out=out)
    if op in ("all_gather_into_tensor", "all_gather_into_tensor_out"):
        return CollectiveCall("all_gather", group, tensor, world_size=size, out=out)
    if op == "all_to_all_single":
        splits = tuple(map(int, bound.get("input_split_sizes") or ()))
        return CollectiveCall("all_to_all", group, tensor, splits=splits)
    if op in ("broadcast", "broadcast_"):
        target_tensor = tensor if op.endswith("_") else None
        return CollectiveCall(
            "broadcast", group, tensor, out=target_tensor, source=int(bound.get("src", 0))
        )
    raise NotImplementedError(
        f"{name} is not simulated: rewrite the graph without it or run it on real ranks"
    )


def perform(calls: Sequence[CollectiveCall]) -> list[torch.Tensor]:
    """Computes a collective from the calls of all ranks, given in the order of the group.

    Args:
        calls: one call a rank; they agree (see :meth:`CollectiveCall.agreement`).

    Returns:
        One fresh tensor a rank: [T, H] for all_reduce, [T / n, H] for reduce_scatter, [n * T, H]
        for all_gather (dim 0).

    Raises:
        ValueError: the size of the group or of the scattered dimension does not fit.

    Example:
        >>> import torch
        >>> ones = torch.ones(1)
        >>> calls = [CollectiveCall("all_reduce", "g", ones, "sum")] * 3
        >>> perform(calls)[0]
        tensor([3.])
    """
    first = calls[0]
    ranks = len(calls)
    if first.world_size not in (0, ranks):
        raise ValueError(
            f"{first.kind} says {first.world_size} ranks, but group {first.group!r} has {ranks}"
        )
    if first.kind == "all_gather":
        whole = _concatenate([call.tensor for call in calls], first.dim)
        results = [whole.clone() for _ in calls]
    elif first.kind == "all_to_all":
        parts = [
            torch.split(call.tensor, list(call.splits)) if call.splits else call.tensor.chunk(ranks)
            for call in calls
        ]
        results = [torch.cat([sent[rank] for sent in parts]) for rank in range(ranks)]
    elif first.kind == "broadcast":
        results = [calls[first.source].tensor.clone() for _ in calls]
    else:
        reduced = _reduce([call.tensor for call in calls], first.reduce_op)
        if first.kind == "all_reduce":
            results = [reduced.clone() for _ in calls]
        else:
            rows = reduced.shape[first.dim] if reduced.dim() else 0
            if rows % ranks:
                raise ValueError(
                    f"reduce_scatter of {rows} rows over {ranks} ranks loses rows: "
                    "the count must be divisible"
                )
            results = (
                [part.clone() for part in reduced.chunk(ranks, dim=first.dim)]
                if rows
                else [reduced.clone() for _ in calls]
            )
    for index, call in enumerate(calls):
        if call.out is not None:
            call.out.copy_(results[index])
            results[index] = call.out
    return results


def _reduce(tensors: Sequence[torch.Tensor], reduce_op: str) -> torch.Tensor:
    total = tensors[0].clone(memory_format=torch.contiguous_format)
    for tensor in tensors[1:]:
        if reduce_op in ("sum", "avg"):
            total = total + tensor
        elif reduce_op == "max":
            total = torch.maximum(total, tensor)
        elif reduce_op == "min":
            total = torch.minimum(total, tensor)
        elif reduce_op == "product":
            total = total * tensor
        else:
            raise NotImplementedError(
                f"reduce op {reduce_op!r} is not simulated: use sum, avg, max, min or product"
            )
    return total / len(tensors) if reduce_op == "avg" else total


def _concatenate(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    dtype = tensors[0].dtype
    if dtype.itemsize != 1:
        return torch.cat(list(tensors), dim=dim)
    # CPU has no float8 kernels for cat: gather the bytes.
    return torch.cat([tensor.contiguous().view(torch.uint8) for tensor in tensors], dim=dim).view(
        dtype
    )


def _read_vllm(op: str, bound: Mapping[str, Any]) -> CollectiveCall | None:
    if op not in ("all_reduce", "reduce_scatter", "all_gather"):
        return None
    tensor = bound.get("x", bound.get("tensor"))
    if not isinstance(tensor, torch.Tensor):
        raise NotImplementedError(f"vllm::{op} has no tensor argument called x or tensor")
    return CollectiveCall(
        op,
        group_name(bound.get("group_name")),
        tensor,
        reduce_op="" if op == "all_gather" else "sum",
        dim=int(bound.get("dim", 0)),
        world_size=int(bound.get("world_size", 0)),
    )


def _bind(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}
