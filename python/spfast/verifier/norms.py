"""Rules for norms, quantisations, reductions over the last dim, and their functionalised forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.inner import along_inner, inner_dims
from spfast.verifier.kinds import NORMS, REDUCTIONS, Norm, norm_that_writes
from spfast.verifier.rows import row_operator
from spfast.verifier.values import Kind, Value

__all__ = ["auto_functionalized", "norm", "reduction"]


# What the second version of auto_functionalized says of an argument that is a part of its base.
_PARTS = ("size", "stride", "storage_offset", "slice_dim", "slice_start", "slice_end")


def bind(
    target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Returns an operator's arguments by name, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _is_node_or_none(argument: Any) -> bool:
    return argument is None or isinstance(argument, fx.Node)


def _apply(
    ctx: Context,
    tag: Any,
    what: Norm,
    bound: dict[str, Any],
    made: Sequence[Any],
    extra: Any = None,
) -> list[Value] | None:
    """Runs the row rule of a norm on arguments by name; ``made``: fake values of its results."""
    rows = [bound.get(name) for name in what.rows]
    shared = [bound.get(name) for name in what.shared]
    if not all(isinstance(row, fx.Node) for row in rows) or not all(map(_is_node_or_none, shared)):
        return None
    operands = [(row, ctx.read(row)) for row in rows if isinstance(row, fx.Node)]
    grouped = bound.get(what.groups)
    if grouped is not None and grouped[0] != -1:
        return None
    if what.block > 1 and len(operands[0][1].shape or ()) != 2:
        return None
    if _cuts_blocks(ctx, what, bound, operands):
        return None
    skip = {*what.rows, *what.shared, *what.writes}
    if what.shape_argument is not None:
        normalised: list[Any] = bound.get(what.shape_argument) or []
        shape = operands[0][1].shape
        if not shape or len(normalised) != 1 or ctx.size(normalised[0]) != shape[-1]:
            return None
        skip.add(what.shape_argument)
    literals = tuple([(name, ctx.key(bound[name])) for name in bound if name not in skip])
    outputs: list[str | tuple[Any]] = list(what.outputs)
    for index, output in enumerate(what.outputs):
        if output != "own":
            continue
        shape = ctx.dims.shape_of(made[index]) if index < len(made) else None
        if not shape:
            return None
        outputs[index] = (shape[-1],)
    return row_operator(ctx, tag, operands, shared, (literals, extra), outputs)


def _cuts_blocks(
    ctx: Context, what: Norm, bound: dict[str, Any], operands: Sequence[tuple[fx.Node, Value]]
) -> bool:
    """Whether results lie in blocks, and the rows are not known to be whole blocks."""
    if what.block == 1 or bound.get(what.block_if) is False:
        return False
    node, value = operands[0]
    rows = ctx.dims.product(value.shape[:-1]) if value.shape else 1
    if ctx.dims.is_divisible(rows, what.block) and not value.share.is_padded:
        return False
    if value.kind is Kind.SHARD:
        ctx.why = f"needs whole blocks of {what.block} rows, but {node.name!r} is "
        ctx.why += value.describe()
    return True


def norm(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """A norm in its functional form."""
    what = NORMS[target._name]
    made = node.meta.get("val")
    results = _apply(
        ctx,
        target,
        what,
        bind(target, args, kwargs),
        made if isinstance(made, (tuple, list)) else (made,),
    )
    if results is None:
        return None
    return ctx.store.tuple(tuple(results)) if what.is_tuple else results[0]


def auto_functionalized(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """A norm or quantisation that writes its results, wrapped by either auto_functionalized."""
    wrapped = args[0] if args else None
    if not isinstance(wrapped, torch._ops.OpOverload):
        return None
    what = norm_that_writes(wrapped)
    if what is None:
        return None
    bound = bind(wrapped, (), kwargs)
    absent = {name for name in what.writes if bound.get(name, 0) is None}
    order: list[str | None]
    if "_all_bases" in kwargs:
        bases = kwargs["_all_bases"]
        order = [None] * len(bases)
        for name in what.writes:
            index = kwargs.get(f"_{name}_base_index")
            if index is None and f"_{name}_base_index" in kwargs:
                absent.add(name)
                bound[name] = None
                continue
            if not isinstance(index, int) or any(f"_{name}_{part}" in kwargs for part in _PARTS):
                return None  # it writes to a part of the base
            bound[name] = bases[index]
            order[index] = name
        if None in order:
            return None
    else:
        order = list(what.writes)
    # A buffer's contents do not matter, for all of it is written; its dtype does.
    names = [name for name in what.writes if name not in what.rows and name not in absent]
    buffers = [bound[name] for name in names if isinstance(bound.get(name), fx.Node)]
    if len(buffers) != len(names):
        return None
    dtypes = tuple([str(getattr(ctx.vals.get(b), "dtype", None)) for b in buffers])
    made = [ctx.vals.get(bound[name]) if name in bound else None for name in what.writes]
    results = _apply(ctx, wrapped, what, bound, made, (dtypes, tuple(sorted(absent))))
    if results is None:
        return None
    by_name = dict(zip(what.writes, results, strict=True))
    for name, buffer in zip(names, buffers, strict=True):
        value, shape = ctx.read(buffer), by_name[name].shape
        if value.kind not in (Kind.FULL, Kind.SHARD) or value.shape is None or shape is None:
            return None
        if not ctx.dims.same_shape(value.shape, shape):
            ctx.why = (
                f"writes {by_name[name].describe()} to the buffer {buffer.name!r} "
                f"of shape {list(value.shape)}"
            )
            return None
    return ctx.store.tuple(
        (None, *(None if name in absent else by_name[name] for name in order if name is not None))
    )


def reduction(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """A reduction (or softmax) over the last dim."""
    where = REDUCTIONS[target._name]
    names = [argument.name for argument in target._schema.arguments]
    bound = bind(target, args, kwargs)
    operand = bound[names[0]]
    if not isinstance(operand, fx.Node):
        return None
    value = ctx.read(operand)
    if not value.shape:
        return None
    dim_name = names[where.dim] if isinstance(where.dim, int) else where.dim
    dim = bound.get(dim_name)
    listed = dim if isinstance(dim, (list, tuple)) else [dim]
    if not all(isinstance(each, int) for each in listed):
        return None
    if len(listed) != 1 or listed[0] not in (-1, len(value.shape) - 1):
        inner = inner_dims(value.shape, listed)
        literals = tuple(
            [(name, ctx.key(bound[name])) for name in bound if name not in (names[0], dim_name)]
        )
        found = inner and along_inner(ctx, node, target, [(operand, value)], literals, inner)
        if found:
            return found
        if value.kind is Kind.SHARD and len(listed) == 1:
            ctx.why = f"reduces {value.describe()} in {operand.name!r} over dim {listed[0]}"
        return None
    output, skip = "row", {names[0], dim_name}
    if where.keepdim is not None:
        keep = names[where.keepdim] if isinstance(where.keepdim, int) else where.keepdim
        output = "one" if bound.get(keep) else "none"
        skip.add(keep)
    literals = tuple([(name, ctx.key(bound[name])) for name in bound if name not in skip])
    outputs = (output,) * where.results
    results = row_operator(ctx, target, [(operand, value)], (), literals, outputs)
    if results is None or where.results == 1:
        return None if results is None else results[0]
    return ctx.store.tuple(tuple(results))
