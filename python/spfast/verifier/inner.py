"""Operators along dims that are neither the tokens nor the last: of heads, of samples of a row.

The result for a row depends on all dims from the first one that the operator works along.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.rows import Operand
from spfast.verifier.values import Kind, Shape, Value

__all__ = ["along_inner", "inner_dims"]


def inner_dims(shape: Shape, listed: Sequence[Any]) -> list[int] | None:
    """Returns dims counted from the last, ascending; None where the first dim is one of them."""
    if not listed or not all(type(dim) is int for dim in listed):
        return None
    dims = sorted({dim % len(shape) for dim in listed})
    return [dim - len(shape) for dim in dims] if dims[0] > 0 else None


def along_inner(
    ctx: Context,
    node: fx.Node,
    target: Any,
    operands: Sequence[Operand],
    literals: Hashable,
    dims: Sequence[int],
) -> Value | None:
    """What an operator makes of values with the same rows, all of which it works on alike.

    Args:
        ctx: The walk.
        node: The node.
        target: Its operator.
        operands: All of the tensors that it reads, held alike.
        literals: Everything else that it is compared by, but for the dims.
        dims: Those that it works along, from :func:`inner_dims`.
    """
    first = operands[0][1]
    if first.shape is None or first.kind not in (Kind.FULL, Kind.SHARD):
        return None
    at = len(first.shape) + dims[0]
    lead = first.shape[:at]
    keys: list[Hashable] = []
    for _, value in operands:
        if value.kind is not first.kind or value.share != first.share or value.shape is None:
            return None
        if value.term in ctx.store.blocks or not ctx.dims.same_shape(value.shape[:at], lead):
            return None
        keys.append((value.term, value.shape[at:]))
    # A chunk of several rows has a dim for its rows before the dims that the operator works along.
    if first.kind is Kind.SHARD and all(size == 1 for size in lead):
        return None
    base = ctx.store.term(("inner", target, tuple(keys), tuple(dims), literals))
    val = ctx.vals[node]
    results: list[Value | None] = []
    for place, part in enumerate(val if isinstance(val, (list, tuple)) else (val,)):
        if not isinstance(part, torch.Tensor) or part.dim() < at:
            return None
        shape = (*lead, *(ctx.dims.of(size) for size in part.shape[at:]))
        term = ctx.store.term(("result", base, place))
        if first.kind is Kind.SHARD:
            results.append(ctx.store.shard(term, first.share, shape))
        else:
            results.append(ctx.store.full(term, shape))
    return ctx.store.tuple(tuple(results)) if isinstance(val, (list, tuple)) else results[0]
