"""The rule for operators that work along the last dim, and so on every row alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.inner import along_inner, inner_dims
from spfast.verifier.kinds import ALONG
from spfast.verifier.norms import bind
from spfast.verifier.rows import join
from spfast.verifier.values import Kind, Shape, Value

__all__ = ["along"]


def along(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """topk, split, cat and the like: a row for each row, as wide as the node's fake value."""
    dim_name = ALONG[target._name]
    bound = bind(target, args, kwargs)
    operands: list[tuple[fx.Node, Value]] = []
    layout: list[Any] = []
    for name, argument in bound.items():
        if name == dim_name:
            continue
        listed = argument if isinstance(argument, (list, tuple)) else (argument,)
        for item in listed:
            value = ctx.read(item) if isinstance(item, fx.Node) else None
            if value is None or value.kind is Kind.SCALAR:
                layout.append((name, ctx.key(item)))
            else:
                operands.append((item, value))
                layout.append(name)
    first = operands[0][1]
    if not first.shape or len(first.shape) < 2:
        return None
    dim = bound.get(dim_name)
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    if len(dims) != 1 or dims[0] not in (-1, len(first.shape) - 1):
        inner = inner_dims(first.shape, dims)
        found = inner and along_inner(ctx, node, target, operands, tuple(layout), inner)
        if found:
            return found
        if first.kind is Kind.SHARD:
            ctx.why = f"works along dim {dim} of {first.describe()} in {operands[0][0].name!r}"
        return None
    joined = join(ctx, operands)
    if joined is None or not all(rows and shape for _, shape, rows in joined.items):
        return None
    terms = tuple([(term, shape[-1] if shape else None) for term, shape, _ in joined.items])
    base = ctx.store.term(("along", target, terms, tuple(layout)))
    val = ctx.vals[node]
    results: list[Value | None] = []
    for place, part in enumerate(val if isinstance(val, (list, tuple)) else (val,)):
        shape = _shape_of(ctx, part, first.shape)
        if shape is None:
            return None
        results.append(joined.make(ctx, ctx.store.term(("result", base, place)), shape))
    return ctx.store.tuple(tuple(results)) if isinstance(val, (list, tuple)) else results[0]


def _shape_of(ctx: Context, val: Any, rows: Shape) -> Shape | None:
    """As many rows as the operand has, as wide as the fake value is, or without a width."""
    if not isinstance(val, torch.Tensor):
        return None
    if val.dim() == len(rows):
        return (*rows[:-1], ctx.dims.of(val.shape[-1]))
    return rows[:-1] if val.dim() == len(rows) - 1 else None
