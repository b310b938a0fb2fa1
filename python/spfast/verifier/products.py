"""Matrix products, and the operators that do one together with the collective beside it.

A fused operator is what its documentation says: a gather and products of what it gathers, or a
product and the reduce_scatter of it. Each product must be one that the original graph has.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx

from spfast.ranks.groups import group_name
from spfast.verifier.context import Context
from spfast.verifier.elementwise import combined
from spfast.verifier.values import Kind, Shape, Share, Value

__all__ = ["FUSED", "addmm", "cutlass", "scaled", "scaled_batch"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_GATHER = torch.ops._c10d_functional.all_gather_into_tensor.default
_MM = torch.ops.aten.mm.default


def _bound(target: Any, args: Args, kwargs: Kwargs) -> dict[str, Any]:
    given = {each.name: each.default_value for each in target._schema.arguments}
    names = [each.name for each in target._schema.arguments]
    return {**given, **dict(zip(names, args, strict=False)), **kwargs}


def _full(ctx: Context, node: Any) -> Value | None:
    """What a node holds whole."""
    value = ctx.read(node) if isinstance(node, fx.Node) else None
    if value is not None and value.kind is not Kind.FULL:
        ctx.why = f"multiplies {value.describe()} in {node.name!r}"
    return value if value is not None and value.kind is Kind.FULL and value.shape else None


def _mm(ctx: Context, left: Value, right: Value) -> Value | None:
    """The product of two matrices, as the walk knows aten.mm; views of the left one count."""
    assert left.shape and right.shape
    rows = ctx.dims.product(left.shape[:-1])
    flat = ctx.store.full(left.term, (rows, left.shape[-1]))
    key: Hashable = (_MM, (flat, right), ("dict",))
    found = ctx.store.results.get(key)
    if found is None:
        made = ctx.store.full(ctx.store.term(key), (rows, right.shape[-1]))
        found = ctx.store.results[key] = made
    return found


def addmm(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """A product and a sum: two operators as one, where neither is scaled."""
    if len(args) != 3 or any(value != 1 for value in kwargs.values()):
        return None
    left, right = _full(ctx, args[1]), _full(ctx, args[2])
    if left is None or right is None or len(left.shape or ()) != 2:
        return None
    both = _mm(ctx, left, right)
    addend = ctx.read(args[0])
    if both is None:
        return None
    return combined(ctx, torch.ops.aten.add.Tensor, [(args[1], both), (args[0], addend)])


def _scaled_term(ctx: Context, left: Value, right: Value, rest: tuple[Any, ...]) -> int:
    assert left.shape
    read = [ctx.read(each) if isinstance(each, fx.Node) else each for each in rest]
    key = ("scaled product", left.term, left.shape[-1], right.term, right.shape, *read)
    return ctx.store.term(key)


def scaled(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """aten._scaled_mm."""
    given = _bound(target, args, kwargs)
    left, right = _full(ctx, given["self"]), _full(ctx, given["mat2"])
    if left is None or right is None:
        return None
    names = ("scale_a", "scale_b", "bias", "scale_result", "out_dtype", "use_fast_accum")
    return _scaled(ctx, node, left, right, tuple([given[name] for name in names]))


def scaled_batch(
    ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs
) -> Value | None:
    """FlashInfer's product of batches of one matrix."""
    given = _bound(target, args, kwargs)
    left, right = _full(ctx, given["A"]), _full(ctx, given["B"])
    if left is None or right is None or right.shape is None or right.shape[0] != 1:
        return None
    matrix = ctx.store.full(right.term, right.shape[1:])
    rest = (given["A_scale"], given["B_scale"], None, None, given["dtype"], False)
    return _scaled(ctx, node, left, matrix, rest)


def cutlass(ctx: Context, node: fx.Node, args: Args, kwargs: Kwargs) -> Value | None:
    """vLLM's cutlass_scaled_mm, which overwrites a buffer of its own."""
    left, right = _full(ctx, kwargs.get("a")), _full(ctx, kwargs.get("b"))
    val = ctx.vals.get(node)
    if left is None or right is None or not isinstance(val, (tuple, list)) or len(val) != 2:
        return None
    dtype = getattr(val[1], "dtype", None)
    names = ("a_scales", "b_scales", "bias")
    rest = (*(kwargs.get(name) for name in names), None, dtype, False)
    term = _scaled_term(ctx, left, right, rest)
    return ctx.store.tuple((None, ctx.store.full(term, ctx.dims.shape_of(val[1]))))


def _scaled(
    ctx: Context, node: fx.Node, left: Value, right: Value, rest: tuple[Any, ...]
) -> Value | None:
    val = ctx.vals.get(node)
    shape = ctx.dims.shape_of(val) if isinstance(val, torch.Tensor) else None
    if shape is None:
        return None
    dtype = rest[4] if rest[4] is not None else getattr(val, "dtype", None)
    term = _scaled_term(ctx, left, right, (*rest[:4], dtype, *rest[5:]))
    return ctx.store.full(term, shape)


# --- fused with the collective beside them ------------------------------------------------------


def gather_mm(ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs) -> Value | None:
    """fused_all_gather_matmul: (what is gathered or None, the products)."""
    given = _bound(target, args, kwargs)
    whole = _gathered(ctx, given["A"], given)
    if whole is None:
        return None
    outs = []
    for each in given["Bs"]:
        right = _full(ctx, each)
        out = None if right is None else _mm(ctx, whole, right)
        if out is None:
            return None
        outs.append(ctx.store.full(out.term, (*whole.shape[:-1], out.shape[-1])))  # type: ignore[index]
    kept = whole if given["return_A"] else None
    return _seen(ctx, node, ctx.store.tuple((kept, ctx.store.tuple(tuple(outs)))))


def gather_scaled(
    ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs
) -> Value | None:
    """fused_all_gather_scaled_matmul: (what is gathered, the products)."""
    given = _bound(target, args, kwargs)
    whole, scale = _gathered(ctx, given["A"], given), ctx.read(given["A_scale"])
    if whole is None:
        return None
    rows = ctx.read(given["A"]).shape or ()
    own = (
        scale.shape is not None
        and len(scale.shape) == 2
        and ctx.dims.same_shape(scale.shape, (*rows[:-1], 1))
    )
    if own:  # a scale for each of this rank's rows, gathered with them
        scale = _gathered(ctx, given["A_scale"], given) or scale
    if scale.kind is not Kind.FULL:
        ctx.why = f"scales by {scale.describe()}"
        return None
    outs = []
    names = ("Bs", "B_scales", "biases", "result_scales", "out_dtypes", "use_fast_accum")
    for each, *rest in zip(*(given[name] for name in names), strict=True):
        right = _full(ctx, each)
        if right is None or not right.shape:
            return None
        read = [ctx.read(item) if isinstance(item, fx.Node) else item for item in rest]
        key = ("scaled product", whole.term, whole.shape[-1], right.term, right.shape, scale)  # type: ignore[index]
        term = ctx.store.term((*key, *read))
        outs.append(ctx.store.full(term, (*whole.shape[:-1], right.shape[-1])))  # type: ignore[index]
    return _seen(ctx, node, ctx.store.tuple((whole, ctx.store.tuple(tuple(outs)))))


def mm_scatter(
    ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs
) -> Value | None:
    """fused_matmul_reduce_scatter."""
    given = _bound(target, args, kwargs)
    left, right = _full(ctx, given["A"]), _full(ctx, given["B"])
    if left is None or right is None or given["scatter_dim"] != 0:
        return None
    part = _sum_of_products(ctx, given["A"], given["B"]) or _mm(ctx, left, right)
    if part is None:
        return None
    shape = (*left.shape[:-1], part.shape[-1])  # type: ignore[index]
    return _scattered(ctx, node, part.term, shape, given)


def _sum_of_products(ctx: Context, left: fx.Node, right: fx.Node) -> Value | None:
    """[x1 | x2 | ...] [w1 / w2 / ...], which is x1 w1 + x2 w2 + ...; None for other operands."""
    lefts, rights = _joined(left, 1), _joined(right, 0)
    if len(lefts) < 2 or len(lefts) != len(rights):
        return None
    total: tuple[fx.Node, Value] | None = None
    for one, other in zip(lefts, rights, strict=True):
        x, w = _full(ctx, one), _full(ctx, other)
        if x is None or w is None or len(x.shape or ()) != 2 or len(w.shape or ()) != 2:
            return None
        if not ctx.dims.same_shape((x.shape[1],), (w.shape[0],)):  # type: ignore[index]
            return None
        product = _mm(ctx, x, w)
        if product is None:
            return None
        if total is None:
            total = (one, product)
            continue
        both = combined(ctx, torch.ops.aten.add.Tensor, [total, (one, product)])
        if both is None:
            return None
        total = (one, both)
    return total[1] if total else None


def _joined(node: fx.Node, dim: int) -> list[fx.Node]:
    """The matrices that are joined along a dim; none where a node is no such call."""
    if node.target is not torch.ops.aten.cat.default or node.kwargs:
        return []
    given, along = node.args[0], node.args[1] if len(node.args) > 1 else 0
    if along != dim or not isinstance(given, (list, tuple)):
        return []
    return [each for each in given if isinstance(each, fx.Node)]


def scaled_scatter(
    ctx: Context, node: fx.Node, target: Any, args: Args, kwargs: Kwargs
) -> Value | None:
    """fused_scaled_matmul_reduce_scatter."""
    given = _bound(target, args, kwargs)
    left, right = _full(ctx, given["A"]), _full(ctx, given["B"])
    dims = (given["orig_scatter_dim"], given["scatter_dim_after_maybe_reshape"])
    sizes = tuple([ctx.size(size) for size in given["output_shape"] or ()])
    if left is None or right is None or dims != (0, 0) or None in sizes:
        return None
    shape = (*left.shape[:-1], right.shape[-1])  # type: ignore[index]
    if not ctx.dims.same_shape(sizes, shape):
        ctx.why = f"is told a result of {list(sizes)}, which is {list(shape)}"
        return None
    names = ("A_scale", "B_scale", "bias", "result_scale", "out_dtype", "use_fast_accum")
    term = _scaled_term(ctx, left, right, tuple([given[name] for name in names]))
    return _scattered(ctx, node, term, shape, given)


def _gathered(ctx: Context, source: fx.Node, given: dict[str, Any]) -> Value | None:
    """A chunk made whole, along the tokens."""
    value, group = ctx.read(source), group_name(given["group_name"])
    if value.kind is Kind.FULL and given["gather_dim"] == 0:
        return _gathered_before(ctx, source, value, group)
    is_shard = value.kind is Kind.SHARD and not value.share.is_padded
    if not is_shard or given["gather_dim"] != 0 or not value.shape:
        ctx.why = f"gathers {value.describe()} in {source.name!r}"
        return None
    if value.group != group:
        ctx.why = f"gathers over group {group!r} {value.describe()}"
        return None
    rows = ctx.dims.multiply(value.shape[0], value.tp)
    return ctx.store.full(value.term, (rows, *value.shape[1:]))


def _gathered_before(ctx: Context, source: fx.Node, value: Value, group: str) -> Value | None:
    """The original graph's gather of each rank's own value; None where it has none."""
    size = ctx.groups.size(group)
    for target in (_GATHER, *_vllm_gather()):
        first = () if target is _GATHER else (0,)
        key = (target, (value, *((int, each) for each in (*first, size)), group), ("dict",))
        found = ctx.store.results.get(key)
        if found is not None:
            return found
    ctx.why = f"gathers {value.describe()} in {source.name!r}, which is gathered nowhere before"
    return None


def _vllm_gather() -> tuple[Any, ...]:
    packet = getattr(torch.ops.vllm, "all_gather", None)
    return () if packet is None else (packet.default,)


def _scattered(
    ctx: Context, node: fx.Node, part: int, shape: Shape, given: dict[str, Any]
) -> Value | None:
    """A sum over the ranks, of which this one keeps its rows."""
    group = group_name(given["group_name"])
    size = ctx.groups.size(group)
    if size is None:
        ctx.why = f"scatters over group {group!r}, of which nobody knows the size"
        return None
    rows = shape[0]
    if not ctx.dims.is_divisible(rows, size):
        if isinstance(rows, int) or not ctx.groups.assumes_divisible:
            ctx.why = f"scatters {rows} rows over {size} ranks"
            return None
    ctx.dims.assume_divisible(rows, size)
    term = ctx.store.reduction(part, given["reduce_op"], group)
    mine = (ctx.dims.divide(rows, size), *shape[1:])
    return _seen(ctx, node, ctx.store.shard(term, Share(group, size), mine))


def _seen(ctx: Context, node: fx.Node, result: Value) -> Value | None:
    """The result, where the node's fake values have its shapes."""
    pending: list[tuple[Value | None, Any]] = [(result, ctx.vals.get(node))]
    while pending:
        value, val = pending.pop()
        if value is None or val is None:
            if value is not val:
                ctx.why = "carries as its value what it does not return"
                return None
        elif value.kind is Kind.TUPLE:
            if not isinstance(val, (tuple, list)) or len(val) != len(value.parts):
                ctx.why = f"carries {type(val).__name__} as its value"
                return None
            pending += zip(value.parts, val, strict=True)
        else:
            shape = ctx.dims.shape_of(val) if isinstance(val, torch.Tensor) else None
            if shape is None or not ctx.dims.same_shape(shape, value.shape):  # type: ignore[arg-type]
                ctx.why = f"carries {shape} as its shape, and has {value.shape}"
                return None
    return result


FUSED = {
    "symm_mem::fused_all_gather_matmul": gather_mm,
    "symm_mem::fused_all_gather_scaled_matmul": gather_scaled,
    "symm_mem::fused_matmul_reduce_scatter": mm_scatter,
    "symm_mem::fused_scaled_matmul_reduce_scatter": scaled_scatter,
}
