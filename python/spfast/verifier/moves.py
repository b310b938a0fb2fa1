"""Rules for what moves values without computing: collectives, views, slices, sizes, getitem."""

from __future__ import annotations

import operator
import sys
from typing import Any

from torch import fx

from spfast.ranks.groups import group_name
from spfast.verifier.context import Context
from spfast.verifier.dims import SYMBOLIC_OPERATORS
from spfast.verifier.effects import is_made_here, overwrite
from spfast.verifier.kinds import COLLECTIVES, Collective
from spfast.verifier.totals import finished, finished_rows
from spfast.verifier.values import Kind, Shape, Share, Value

__all__ = [
    "bits",
    "collective",
    "copy",
    "getitem",
    "identity",
    "number",
    "pad",
    "size",
    "slice_rows",
    "view",
    "wait",
]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _at(args: Args, kwargs: Kwargs, position: int, name: str, default: Any = None) -> Any:
    return args[position] if position < len(args) else kwargs.get(name, default)


def collective(
    ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs
) -> Value | None:
    """all_reduce, reduce_scatter and all_gather over one group."""
    what = COLLECTIVES[target._name]
    if kwargs or len(args) <= what.group:
        return None
    if what.many or what.in_place:
        return _reduce_several(ctx, node, what, args)
    if not isinstance(args[0], fx.Node):
        return None
    value = ctx.read(args[0])
    group = group_name(args[what.group])
    if group in ctx.kept and what.what != "reduce":
        return None
    if what.size >= 0:
        problem = ctx.groups.size_problem(group, args[what.size])
        if problem is not None:
            ctx.why = problem
            return None
    if what.dim >= 0 and args[what.dim] != 0:
        ctx.why = f"moves {value.describe()} along dim {args[what.dim]}, not along the tokens"
        return None
    reduce_op = args[what.reduce_op] if what.reduce_op >= 0 else "sum"
    if what.what == "gather":
        result = _gather(ctx, args[0], value, group, args[what.size])
    elif value.kind is Kind.PART and what.what == "reduce":
        result = finished(ctx, args[0], value, group, reduce_op)
    elif value.kind is Kind.PADDED and what.what == "scatter":
        result = _scatter_padded(ctx, args[0], value, group, args[what.size], reduce_op)
    elif value.kind is not Kind.FULL:
        ctx.why = f"reduces {value.describe()} in {args[0].name!r}"
        return None
    elif what.what == "scatter":
        result = _scatter(ctx, args[0], value, group, args[what.size], reduce_op)
    else:
        result = finished_rows(ctx, args[0], value, group, ctx.groups.size(group), reduce_op)
        if result is None and ctx.why is None:
            term = ctx.store.reduction(value.term, reduce_op, group)
            result = ctx.store.full(term, value.shape)
    if result is None:
        return None
    return ctx.store.pending(result) if what.needs_wait else result


def _reduce_several(ctx: Context, node: fx.Node, what: Collective, args: Args) -> Value | None:
    """An all_reduce of a list of tensors, or one that writes to what it reduces.

    A write to memory that the graph itself made is no effect. Whatever reads that memory later, by
    another name, reads the new contents.
    """
    operands = args[0] if what.many else (args[0],)
    if not isinstance(operands, (list, tuple)):
        return None
    if not all(isinstance(operand, fx.Node) for operand in operands):
        return None
    if what.in_place and not all(is_made_here(ctx, operand) for operand in operands):
        return None
    values = [ctx.read(operand) for operand in operands]
    for operand, value in zip(operands, values, strict=True):
        if value.kind is not Kind.FULL:
            ctx.why = f"reduces {value.describe()} in {operand.name!r}"
            return None
    reduce_op, group = args[what.reduce_op], group_name(args[what.group])
    parts = []
    for operand, value in zip(operands, values, strict=True):
        term = ctx.store.reduction(value.term, reduce_op, group)
        parts.append(ctx.store.pending(ctx.store.full(term, value.shape)))
        if what.in_place:
            overwrite(ctx, node, operand, value.term, term)
    return ctx.store.tuple(tuple(parts)) if what.many else parts[0]


def _scatter(
    ctx: Context, source: fx.Node, value: Value, group: str, tp: int, reduce_op: str
) -> Value | None:
    if not value.shape:
        return None
    rows = value.shape[0]
    # A reduce_scatter of the original graph runs only where the ranks divide the rows, so there
    # the rows are taken to be a multiple.
    if ctx.is_after and not ctx.dims.is_divisible(rows, tp):
        if isinstance(rows, int) or not ctx.groups.assumes_divisible:
            ctx.why = _uneven(source, rows, tp)
            return None
    ctx.dims.assume_divisible(rows, tp)
    # The term is that of the all_reduce, for a reduce_scatter yields chunks of the same sum.
    term = ctx.store.reduction(value.term, reduce_op, group)
    mine = (ctx.dims.divide(rows, tp), *value.shape[1:])
    return ctx.store.shard(term, Share(group, tp), mine)


def _uneven(source: fx.Node, rows: Any, tp: int) -> str:
    return (
        f"scatters the {rows} rows of {source.name!r} over {tp} ranks, "
        f"and {rows} is not known to be a multiple of {tp}"
    )


def _scatter_padded(
    ctx: Context, source: fx.Node, value: Value, group: str, tp: int, reduce_op: str
) -> Value | None:
    """A reduce_scatter of padded rows: every rank gets the same number, and the last were added."""
    assert value.shape
    rows, tokens = value.shape[0], value.share.tokens
    if not ctx.dims.is_divisible(rows, tp):
        ctx.why = _uneven(source, rows, tp)
        return None
    term = ctx.store.reduction(value.term, reduce_op, group)
    mine = (ctx.dims.divide(rows, tp), *value.shape[1:])
    return ctx.store.shard(term, Share(group, tp, tokens, rows), mine)


def _gather(ctx: Context, source: fx.Node, value: Value, group: str, tp: int) -> Value | None:
    if value.kind is not Kind.SHARD:
        if ctx.is_after and value.kind is Kind.FULL:
            ctx.why = f"gathers {source.name!r}, which every rank already holds whole"
        return None
    if (value.group, value.tp) != (group, tp):
        ctx.why = f"gathers over group {group!r} ({tp} ranks) {value.describe()}"
        return None
    if not value.shape:
        return None
    rows = ctx.dims.multiply(value.shape[0], tp)
    shape = (rows, *value.shape[1:])
    if not value.share.is_padded:
        return ctx.store.full(value.term, shape)
    if not ctx.dims.equal(rows, value.share.rows):
        ctx.why = f"gathers {value.describe()} in {source.name!r} in other rows"
        return None
    return ctx.store.padded(value.term, value.share.tokens, shape)


def pad(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """aten.constant_pad_nd, where the rewritten graph adds rows behind all that there are."""
    if not ctx.is_after or not isinstance(args[0], fx.Node):
        return None
    if (target, ctx.key(args), ctx.key(kwargs)) in ctx.store.results:
        return None  # the original graph's
    value = ctx.read(args[0])
    amounts = [ctx.size(amount) for amount in args[1]]
    if value.kind is not Kind.FULL or not value.shape or None in amounts:
        return None
    if len(amounts) != 2 * len(value.shape) or any(amount != 0 for amount in amounts[:-1]):
        return None
    rows = ctx.dims.plain(value.shape[0] + amounts[-1])
    if not ctx.dims.is_rounded_up(rows, value.shape[0]):
        return None
    return ctx.store.padded(value.term, value.shape[0], (rows, *value.shape[1:]))


def wait(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """Waiting yields the collective's result, and anything else as it is."""
    if kwargs or len(args) != 1 or not isinstance(args[0], fx.Node):
        return None
    value = ctx.read(args[0])
    if value.kind is not Kind.PENDING:
        return value
    finished = value.parts[0]
    if finished is not None:
        ctx.values[args[0]] = finished  # by whichever name it is read from now on
    return finished


def identity(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """The same elements and shape."""
    if not args or not isinstance(args[0], fx.Node):
        return None
    value = ctx.read(args[0])
    return value if value.kind in (Kind.FULL, Kind.SHARD) and value.shape is not None else None


def copy(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """aten.copy(self, src): what src holds, when self has its shape and dtype."""
    if len(args) < 2 or not all(isinstance(argument, fx.Node) for argument in args[:2]):
        return None
    into, source = ctx.read(args[0]), ctx.read(args[1])
    if source.kind not in (Kind.FULL, Kind.SHARD) or into.shape is None or source.shape is None:
        return None
    dtypes = [getattr(ctx.vals.get(argument), "dtype", None) for argument in args[:2]]
    if dtypes[0] is None or dtypes[0] != dtypes[1]:
        return None
    return source if ctx.dims.same_shape(into.shape, source.shape) else None


def view(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """The same elements in the same order under another shape."""
    if not args or not isinstance(args[0], fx.Node):
        return None
    value = ctx.read(args[0])
    if value.kind not in (Kind.FULL, Kind.SHARD) or value.shape is None:
        return None
    sizes = _view_sizes(ctx, target._name, value.shape, args, kwargs)
    if sizes is None:
        return None
    shape = ctx.dims.resolve(sizes, value.shape)
    if shape is None:
        ctx.why = f"views {value.describe()} in {args[0].name!r} as {list(sizes)}"
        return None
    return _held_alike(ctx, value, value.term, shape)


def bits(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """aten.view.dtype to a dtype of the same width: another value. A view back yields the first."""
    dtype = _at(args, kwargs, 1, "dtype")
    value = ctx.read(args[0])
    given = getattr(ctx.vals.get(args[0]), "dtype", None)
    if given is None or given.itemsize != dtype.itemsize:
        return None
    if value.kind not in (Kind.FULL, Kind.SHARD, Kind.PADDED) or value.shape is None:
        return None
    first = ctx.store.bits.get(value.term, (value.term, given))
    term = first[0]
    if dtype != first[1]:
        term = ctx.store.term(("bits", term, str(dtype)))
        ctx.store.bits[term] = first
    return _held_alike(ctx, value, term, value.shape)


def _held_alike(ctx: Context, value: Value, term: int, shape: Shape) -> Value:
    """Another term or shape, held as the value is: whole, or one rank's chunk."""
    if value.kind is Kind.SHARD:
        return ctx.store.shard(term, value.share, shape)
    if value.kind is Kind.PADDED:
        return ctx.store.padded(term, value.share.tokens, shape)
    return ctx.store.full(term, shape)


def _view_sizes(ctx: Context, name: str, shape: Shape, args: Args, kwargs: Kwargs) -> Shape | None:
    rank = len(shape)
    if name == "aten::unsqueeze":
        dim = _at(args, kwargs, 1, "dim")
        dim += rank + 1 if dim < 0 else 0
        return (*shape[:dim], 1, *shape[dim:])
    if name == "aten::squeeze.dim":
        dim = _at(args, kwargs, 1, "dim") % max(rank, 1)
        return shape[:dim] + shape[dim + 1 :] if shape and shape[dim] == 1 else shape
    if name == "aten::flatten.using_ints":
        start = _at(args, kwargs, 1, "start_dim", 0) % max(rank, 1)
        end = _at(args, kwargs, 2, "end_dim", -1) % max(rank, 1)
        return (*shape[:start], ctx.dims.product(shape[start : end + 1]), *shape[end + 1 :])
    listed = _at(args, kwargs, 1, "size", _at(args, kwargs, 1, "shape"))
    if not isinstance(listed, (list, tuple)):
        return None
    sizes = tuple([ctx.size(item) for item in listed])
    return None if any(item is None for item in sizes) else sizes


def slice_rows(
    ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs
) -> Value | None:
    """aten.slice and aten.narrow: everything, or some rows of dim 0."""
    if not args or not isinstance(args[0], fx.Node):
        return None
    value = ctx.read(args[0])
    if value.kind not in (Kind.FULL, Kind.SHARD, Kind.PADDED) or not value.shape:
        return None
    dim = _at(args, kwargs, 1, "dim", 0)
    length = value.shape[dim]
    start = ctx.size(_at(args, kwargs, 2, "start") or 0)
    if target._name == "aten::narrow":
        taken = ctx.size(_at(args, kwargs, 3, "length"))
        end = None if start is None or taken is None else ctx.dims.plain(start + taken)
    else:
        if _at(args, kwargs, 4, "step", 1) != 1:
            return None
        end = ctx.size(sys.maxsize if (given := _at(args, kwargs, 3, "end")) is None else given)
    if start is None or end is None:
        return None
    start, end = _clamp(start, length), _clamp(end, length)
    if start == 0 and ctx.dims.equal(end, length):
        return value
    if dim not in (0, -len(value.shape)):
        return None
    if value.kind is Kind.SHARD:
        ctx.why = f"takes rows {start}:{end} of {value.describe()} in {args[0].name!r}"
        return None
    shape = (ctx.dims.plain(end - start), *value.shape[1:])
    tokens = value.share.tokens
    if value.kind is Kind.PADDED and start == 0 and ctx.dims.equal(end, tokens):
        return ctx.store.full(value.term, (tokens, *shape[1:]))
    return ctx.store.block(value.term, length, start, end, tokens, shape)


def _clamp(bound: Any, length: Any) -> Any:
    if not isinstance(bound, int):
        return bound
    if isinstance(length, int):
        return max(0, min(bound + length if bound < 0 else bound, length))
    return length if bound == sys.maxsize else bound


def getitem(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """One of several results."""
    if len(args) != 2 or not isinstance(args[0], fx.Node) or type(args[1]) is not int:
        return None
    value = ctx.read(args[0])
    if value.kind is not Kind.TUPLE or not -len(value.parts) <= args[1] < len(value.parts):
        return None
    part = value.parts[args[1]]
    return ctx.store.tuple(()) if part is None else part


def size(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """aten.sym_size: one size of what this rank holds."""
    if len(args) != 2 or not isinstance(args[0], fx.Node) or not isinstance(args[1], int):
        return None
    value = ctx.read(args[0])
    if value.kind not in (Kind.FULL, Kind.SHARD) or not value.shape:
        return None
    return ctx.store.scalar(value.shape[args[1]])


def number(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """Arithmetic on sizes."""
    if len(args) != 2 or kwargs:
        return None
    left, right = ctx.size(args[0]), ctx.size(args[1])
    if left is None or right is None:
        return None
    if target in (operator.floordiv, operator.mod) and right == 0:
        return None
    both = isinstance(left, int) and isinstance(right, int)
    result = target(left, right) if both else SYMBOLIC_OPERATORS[target](left, right)
    return ctx.store.scalar(ctx.dims.plain(result))
