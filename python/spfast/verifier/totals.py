"""Sums over all rows: of one rank's rows they are its part of the sum, which a reduction finishes.

A term speaks of the flat elements, and a chunk is an equal share of them in whole rows. The sum of
a chunk over its rows is then a part of the sum over all rows: the parts of all ranks add up to it.
The means of chunks add up to as many means as there are ranks. And a sum over more of a sum's dims,
a mean over more of a mean's, is one over all of them.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.norms import bind, reduction
from spfast.verifier.rows import chunk
from spfast.verifier.values import BlockTotal, Kind, Shape, Share, Value

__all__ = ["TOTALS", "divided", "finished", "finished_rows", "total"]

TOTALS = {
    "aten::sum.dim_IntList": "sum",
    "aten::sum": "sum",
    "aten::mean.dim": "mean",
    "aten::mean": "mean",
}


def total(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """A sum or a mean over the leading dims; over others it is a reduction of rows."""
    kind = TOTALS[target._name]
    bound = bind(target, args, kwargs)
    operand = bound["self"]
    if not isinstance(operand, fx.Node):
        return None
    value = ctx.read(operand)
    of_all = not any(argument.name == "dim" for argument in target._schema.arguments)
    dims = range(len(value.shape or ())) if of_all else bound.get("dim")
    over = _leading(dims, value.shape)
    if over == 0 or value.kind not in (Kind.FULL, Kind.SHARD) or not _keeps_dtype(ctx, operand):
        return None if of_all else reduction(ctx, node, target, args, kwargs)
    assert value.shape
    row = value.shape[over:]
    shape = (*((1,) * over if bound.get("keepdim") else ()), *row)
    is_cut = value.term in ctx.store.blocks  # a single row of several is no sum of all
    if value.kind is Kind.FULL and not is_cut and all(size == 1 for size in value.shape[:over]):
        return ctx.store.full(value.term, shape)
    term = _term(ctx, kind, value.term, row)
    if value.kind is Kind.SHARD:
        if value.share.is_padded:
            ctx.why = f"sums rows that were added: {value.describe()} in {operand.name!r}"
            return None
        if kind == "mean":
            one, term = term, ctx.store.term(("times", value.tp, term))
            ctx.store.multiples[term] = (value.tp, one)
        return ctx.store.part(term, value.share, shape)
    if is_cut:
        ctx.store.block_totals[term] = BlockTotal(value, kind, row)
    return ctx.store.full(term, shape)


def _term(ctx: Context, kind: str, of: int, row: Shape) -> int:
    earlier = ctx.store.totals.get(of)
    base = earlier[1] if earlier is not None and earlier[0] == kind else of
    term = ctx.store.term(("total", kind, base, row))
    ctx.store.totals[term] = (kind, base)
    return term


def divided(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """A rank's mean, divided by the number of ranks: its part of the mean."""
    if kwargs or len(args) != 2 or not isinstance(args[0], fx.Node) or type(args[1]) is not int:
        return None
    value = ctx.read(args[0])
    if value.kind is Kind.PART:
        times, one = ctx.store.multiples.get(value.term, (0, 0))
        assert value.shape is not None
        return ctx.store.part(one, value.share, value.shape) if times == args[1] else None
    rows = ctx.store.block_totals.get(value.term)
    if value.kind is not Kind.FULL or rows is None or rows.kind != "mean" or rows.divided_by != 1:
        return None
    term = ctx.store.term(("share", value.term, args[1]))
    ctx.store.block_totals[term] = BlockTotal(rows.rows, rows.kind, rows.row, args[1])
    return ctx.store.full(term, value.shape)


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

    It is a sum over all rows only where each rank sums its own rows, and of one and the same value.
    None where it is no such sum, or the original graph reduces the very same: then it is compared
    with that.
    """
    one = ctx.store.block_totals.get(value.term)
    if one is None or tp is None or reduce_op != "sum" or not ctx.is_after:
        return None
    if one.divided_by != (tp if one.kind == "mean" else 1):
        return None
    if ctx.store.has(("reduced", value.term, reduce_op, group)):
        return None
    base = chunk(ctx, operand, one.rows, Share(group, tp))
    if base is None:
        return None
    ctx.meet(operand, base, group, has_rows=True)
    return ctx.store.full(_term(ctx, one.kind, base, one.row), value.shape)


def _leading(listed: Any, shape: Shape | None) -> int:
    """How many leading dims are listed, each once and no other; 0: it is not so."""
    if not shape or not isinstance(listed, (list, tuple, range)):
        return 0
    if not all(type(dim) is int for dim in listed):
        return 0
    dims = sorted(dim % len(shape) for dim in listed)
    return len(dims) if dims == list(range(len(dims))) else 0


def _keeps_dtype(ctx: Context, operand: fx.Node) -> bool:
    """A sum of booleans or of small integers is of another dtype."""
    dtypes = {getattr(ctx.vals.get(node), "dtype", None) for node in (ctx.node, operand) if node}
    return len(dtypes) == 1 and None not in dtypes
