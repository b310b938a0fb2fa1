"""Sums over all rows: each rank sums its own rows, and a reduction adds up these parts.

A term speaks of the flat elements, and a chunk is an equal share of them in whole rows. The sum of
a chunk over its rows is then a part of the sum over all rows: the parts of all ranks add up to it.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.norms import bind, reduction
from spfast.verifier.rows import chunk
from spfast.verifier.values import Kind, Shape, Share, Value

__all__ = ["finished", "finished_rows", "total"]


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
    is_cut = value.term in ctx.store.blocks  # a single row of several is no sum of all
    if value.kind is Kind.FULL and not is_cut and all(size == 1 for size in value.shape[:over]):
        return ctx.store.full(value.term, shape)
    rows = ctx.dims.product(value.shape[:over])
    if value.kind is Kind.SHARD:
        rows = ctx.dims.multiply(rows, value.tp)
    # The number of rows is part of the term: the term of a repeated value does not say how often.
    term = ctx.store.term(("total", value.term, row, rows))
    if value.kind is Kind.SHARD:
        if value.share.is_padded:
            ctx.why = f"sums rows that were added: {value.describe()} in {operand.name!r}"
            return None
        return ctx.store.part(term, value.share, shape)
    if is_cut:
        ctx.store.block_totals[term] = (value, row)
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


def finished_rows(
    ctx: Context, operand: fx.Node, value: Value, group: str, tp: int | None, reduce_op: str
) -> Value | None:
    """What an all_reduce makes of sums over this rank's rows of a value that is there in full.

    It is a sum over all rows only where each rank sums its own rows of the same value. None where
    it is no such sum. None, too, where the original graph reduces the same sums: then the two
    all_reduces are compared.
    """
    rows, row = ctx.store.block_totals.get(value.term, (None, ()))
    if rows is None or tp is None or reduce_op != "sum" or not ctx.is_after:
        return None
    if ctx.store.has(("reduced", value.term, reduce_op, group)):
        return None
    base = chunk(ctx, operand, rows, Share(group, tp))
    if base is None:
        return None
    ctx.meet(operand, base, group, has_rows=True)
    assert rows.shape is not None
    mine = ctx.dims.product(rows.shape[: len(rows.shape) - len(row)])
    all_rows = ctx.dims.multiply(mine, tp)
    return ctx.store.full(ctx.store.term(("total", base, row, all_rows)), value.shape)


def _leading(listed: Any, shape: Shape | None) -> int:
    """How many leading dims a list names; 0 where it does not name just these, each once."""
    if not shape or not isinstance(listed, (list, tuple)):
        return 0
    if not all(type(dim) is int for dim in listed):
        return 0
    dims = sorted(dim % len(shape) for dim in listed)
    return len(dims) if dims == list(range(len(dims))) else 0


def _keeps_dtype(ctx: Context, operand: fx.Node) -> bool:
    """Whether a sum has the operand's dtype: sums of booleans and of small integers do not."""
    dtypes = {getattr(ctx.vals.get(node), "dtype", None) for node in (ctx.node, operand) if node}
    return len(dtypes) == 1 and None not in dtypes
