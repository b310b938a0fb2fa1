"""Sums over all rows: of one rank's rows they are its part of the sum, which a reduction finishes.

A term speaks of the flat elements, and a chunk is an equal share of them in whole rows. The sum of
a chunk over its rows is then a part of the sum over all rows: the parts of all ranks add up to it.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.norms import bind, reduction
from spfast.verifier.values import Kind, Shape, Value

__all__ = ["finished", "total"]


def total(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """aten.sum over the leading dims; over others it is a reduction of rows."""
    bound = bind(target, args, kwargs)
    operand = bound["self"]
    if not isinstance(operand, fx.Node):
        return None
    value = ctx.read(operand)
    over = _leading(bound.get("dim"), value.shape)
    if over == 0 or value.kind not in (Kind.FULL, Kind.SHARD) or not _keeps_dtype(ctx, operand):
        return reduction(ctx, node, target, args, kwargs)
    assert value.shape
    row = value.shape[over:]
    shape = (*((1,) * over if bound.get("keepdim") else ()), *row)
    if value.kind is Kind.FULL and all(size == 1 for size in value.shape[:over]):
        return ctx.store.full(value.term, shape)
    term = ctx.store.term(("total", value.term, row))
    if value.kind is Kind.SHARD:
        return ctx.store.part(term, value.group, value.tp, shape)
    return ctx.store.full(term, shape)


def finished(
    ctx: Context, operand: fx.Node, value: Value, group: str, reduce_op: str
) -> Value | None:
    """What an all_reduce makes of parts: the sum; None (with ``ctx.why``) where it is another."""
    if reduce_op == "sum" and group == value.group:
        return ctx.store.full(value.term, value.shape)
    ctx.why = f"takes the {reduce_op} over group {group!r} of {value.describe()} in "
    ctx.why += repr(operand.name)
    return None


def _leading(listed: Any, shape: Shape | None) -> int:
    """How many leading dims are listed, each once and no other; 0: it is not so."""
    if not shape or not isinstance(listed, (list, tuple)):
        return 0
    if not all(type(dim) is int for dim in listed):
        return 0
    dims = sorted(dim % len(shape) for dim in listed)
    return len(dims) if dims == list(range(len(dims))) and len(dims) < len(shape) else 0


def _keeps_dtype(ctx: Context, operand: fx.Node) -> bool:
    """A sum of booleans or of small integers is of another dtype."""
    dtypes = {getattr(ctx.vals.get(node), "dtype", None) for node in (ctx.node, operand) if node}
    return len(dtypes) == 1 and None not in dtypes
