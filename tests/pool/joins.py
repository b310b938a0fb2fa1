"""Makers of collectives, and of what models are made of: a partial sum, its reduction, a norm."""

from __future__ import annotations

import torch

from tests.pool.draw import Draw
from tests.pool.elementwise import F32, F64, I64, Maker
from tests.pool.kept import Rejected
from tests.pool.program import Op, PerRank, V


def a_group(d: Draw) -> str:
    """The group of a collective, most often "tp"."""
    return "tp" if d.chance(0.7) else d.choose(d.world.groups)


def a_reduction(d: Draw) -> str:
    """How a collective reduces, most often by a sum."""
    return "sum" if d.chance(0.75) else d.choose(["avg", "max", "min"])


def reduced(d: Draw, x: V, group: str | None = None, how: str | None = None) -> V:
    """The value summed over a group, in one of the forms that graphs have."""
    group = group or a_group(d)
    if d.dialect == "vllm":
        return d.call("vllm.all_reduce.default", x, group)
    how = how or a_reduction(d)
    form = d.choose(["plain"] * 12 + ["in place", "together", "together in place"])
    if form == "plain":
        return waited(d, d.call("_c10d_functional.all_reduce.default", x, how, group))
    if form == "in place":
        copy = x if d.chance(0.2) else d.call("aten.clone.default", x)
        return waited(d, d.call("_c10d_functional.all_reduce_.default", copy, how, group))
    others = [x, d.tensor(1)] if d.chance(0.7) else [x]
    if form == "together in place":
        others = [d.call("aten.clone.default", each) for each in others]
        both = d.call("_c10d_functional.all_reduce_coalesced_.default", others, how, group)
    else:
        both = d.call("_c10d_functional.all_reduce_coalesced.default", others, how, group)
    first, *more = [waited(d, part) for part in d.parts(both)]
    d.keep(*more, first)
    return first


def waited(d: Draw, x: V) -> V:
    """The value of a functional collective; rarely read before its wait, as nobody should."""
    return d.call("_c10d_functional.wait_tensor.default", x)


def moved(d: Draw) -> V:
    """Any collective on any value."""
    x = d.tensor(1)
    group = a_group(d)
    size = d.world.group_size(group)
    if d.dialect == "vllm":
        kind = d.choose(["all_reduce", "reduce_scatter", "all_gather", "all_gather"])
        if kind == "all_reduce":
            return d.keep(reduced(d, x, group))
        dim = d.random.randrange(d.dims(x))
        return d.keep(d.call(f"vllm.{kind}.default", x, dim, size, group))
    kind = d.choose(
        ["reduce", "reduce", "reduce", "scatter", "gather", "gather", "exchange", "broadcast",
         "gathers", "scatters", "columns"]
    )  # fmt: skip
    if kind == "reduce":
        return d.keep(reduced(d, x, group))
    space = "_c10d_functional"
    if kind == "scatter":
        raw = d.call(f"{space}.reduce_scatter_tensor.default", x, a_reduction(d), size, group)
    elif kind == "gather":
        raw = d.call(f"{space}.all_gather_into_tensor.default", x, size, group)
    elif kind == "columns":  # as DTensor gathers the last dim
        rows = waited(d, d.call(f"{space}.all_gather_into_tensor.default", x, size, group))
        parts = d.parts(d.call("aten.chunk.default", rows, size, 0))
        return d.keep(d.call("aten.cat.default", parts, -1))
    elif kind == "exchange":
        rows = d.shape(x)[0]
        if not isinstance(rows, int) or rows % size:
            raise Rejected("its rows have no shares")
        shares = [rows // size] * size
        raw = d.call(f"{space}.all_to_all_single.default", x, shares, shares, group)
    elif kind == "broadcast":
        raw = d.call(f"{space}.broadcast.default", x, d.choose([0, size - 1]), group)
    else:
        name, extra = ("all_gather_into_tensor", ()) if kind == "gathers" else (
            "reduce_scatter_tensor", (a_reduction(d),))  # fmt: skip
        both = d.call(f"{space}.{name}_coalesced.default", [x, d.tensor(1)], *extra, size, group)
        return d.keep(*[waited(d, part) for part in d.parts(both)])
    return d.keep(waited(d, raw))


# --- pieces of models ----------------------------------------------------------------------------


def partial(d: Draw) -> V:
    """This rank's part of a value of the stream's shape."""
    shape = (*d.rows, d.hidden)
    far = d.some_axes()
    kind = d.choose(["input"] * 3 + ["gemm"] * 5 + ["pool", "embedding", "residual", "bias"])
    if kind == "input":
        return d.keep(d.input(shape, differs=far, stem="part"))
    if kind == "pool":
        return streamlike(d)
    if kind == "embedding":
        return _vocabulary(d)
    if kind == "residual":
        mine = d.input(shape, differs=far, stem="part")
        share = d.call("aten.div.Tensor", d.the_stream(), d.world.tp)
        return d.keep(d.call("aten.add.Tensor", share, mine))
    if kind == "bias":
        mine = d.input(shape, differs=far, stem="part")
        bias = d.input([d.hidden], differs=())
        return d.call("aten.add.Tensor", mine, bias, only=(0,))
    x = streamlike(d)
    inner = d.choose([3, 4, 6])
    up = gemm(d, x, d.input([d.hidden, inner], differs=far, fill="small", stem="up"))
    act = d.call(f"aten.{d.choose(['silu', 'gelu', 'relu', 'tanh'])}.default", up)
    if d.chance(0.3):
        d.keep(act)
    down = gemm(d, act, d.input([inner, d.hidden], differs=far, fill="small", stem="down"))
    return d.keep(down) if d.chance(0.15) else down


def gemm(d: Draw, x: V, weight: V) -> V:
    """Tokens times a weight, in one of the forms that captures leave."""
    dtype = d.dtype(x)
    if dtype != F64:
        weight = d.call("aten._to_copy.default", weight, dtype=dtype)
    dims = d.dims(x)
    if dims == 2:
        return d.call(f"aten.{d.choose(['mm', 'mm', 'matmul'])}.default", x, weight)
    form = d.choose(["view", "view", "matmul", "bmm", "linear"])
    sizes = [d.size(x, place) for place in range(dims)]
    if form == "matmul":
        return d.call("aten.matmul.default", x, weight)
    if form == "linear":
        return d.call("aten.linear.default", x, d.call("aten.t.default", weight))
    if form == "bmm" and dims == 3:
        many = d.call("aten.expand.default", d.call("aten.unsqueeze.default", weight, 0),
                      [sizes[0], -1, -1])  # fmt: skip
        return d.call("aten.bmm.default", x, many)
    front = -1 if d.chance(0.4) else d.product(sizes[:-1])
    flat = d.call("aten.view.default", x, [front, sizes[-1]])
    out = d.call("aten.mm.default", flat, weight)
    return d.call("aten.view.default", out, [*sizes[:-1], d.size(weight, 1)])


def streamlike(d: Draw) -> V:
    shape = d.shape(d.the_stream())
    return d.pick(lambda name: d.is_float(name) and d.shape(name) == shape)


def _vocabulary(d: Draw) -> V:
    """The embedding of a vocabulary that is spread over the ranks, before its sum."""
    own = 3
    tokens = d.input(d.rows, I64, differs=(), fill=f"index:{own * d.world.tp}", stem="ids")
    first = tuple(own * d.world.coordinate(rank, "tp") for rank in range(d.world.size))
    place = d.call("aten.sub.Tensor", tokens, PerRank(first))
    outside = d.call(
        "aten.logical_or.default",
        d.call("aten.lt.Scalar", place, 0),
        d.call("aten.ge.Scalar", place, own),
    )
    inside = d.call("aten.masked_fill.Scalar", place, outside, 0)
    table = d.input([own, d.hidden], differs=("tp",), stem="table", layout="dense")
    found = d.call("aten.embedding.default", table, inside)
    return d.call(
        "aten.masked_fill.Scalar", found, d.call("aten.unsqueeze.default", outside, -1), 0.0
    )


def norm(d: Draw, x: V) -> V:
    """What stands behind a sum: a norm in one of its forms, or anything that treats rows alone."""
    kinds = ["rms"] * 6 + [
        "layer",
        "layer",
        "fused",
        "softmax",
        "unit",
        "gate",
        "none",
        "quantised",
    ]
    if d.dialect == "vllm":
        kinds += ["ir"] * 8 + ["op"] * 3
    kind = d.choose(kinds)
    dtype = d.dtype(x)

    def gain() -> V:
        dims = [1] * d.random.randrange(2) + [d.hidden] if d.chance(0.15) else [d.hidden]
        return d.input(dims, dtype, differs=None if d.chance(0.1) else (), fill="gain", stem="g")

    if kind == "rms":
        return _rms(d, x, gain())
    if kind == "layer":
        three = d.call("aten.native_layer_norm.default", x, [d.hidden], gain(), gain(), 1e-6)
        if d.chance(0.2):
            return d.keep(d.part(three, 2), d.part(three, 1), d.part(three, 0))
        return d.part(three, 0)
    if kind == "fused":
        both = d.call("aten._fused_rms_norm.default", x, [d.hidden], gain(), 1e-6)
        if d.chance(0.2):
            return d.keep(d.part(both, 1), d.part(both, 0))
        return d.part(both, 0)
    if kind == "softmax":
        return d.call("aten._softmax.default", x, -1, False)
    if kind == "unit":
        length = d.call("aten.linalg_vector_norm.default", x, 2, [-1], True)
        return d.call("aten.div.Tensor", x, d.call("aten.add.Tensor", length, 1e-3))
    if kind == "gate":
        gate = d.input(d.choose([[d.hidden], [1, d.hidden]]), dtype, differs=(), stem="gate")
        return d.call("aten.mul.Tensor", d.call("aten.sigmoid.default", x), gate)
    if kind == "ir":
        return d.call("vllm_ir.rms_norm.default", x, gain(), 1e-6)
    if kind == "op":
        out = d.call("aten.empty_like.default", x)
        both = d.call(
            "higher_order.auto_functionalized",
            Op("_C.rms_norm.default"), result=out, input=x, weight=gain(), epsilon=1e-6,
        )  # fmt: skip
        return d.part(both, 1)
    if kind == "quantised":
        y = d.keep(_rms(d, x, gain()))
        if d.exact:
            return y
        scale = d.input([1], dtype, differs=(), fill="gain", stem="scale")
        y = d.call("aten.clamp.default", d.call("aten.mul.Tensor", y, scale), -448.0, 448.0)
        small = d.keep(d.call("prims.convert_element_type.default", y, torch.float8_e4m3fn))
        return d.call("aten._to_copy.default", small, dtype=dtype)
    return x


def _rms(d: Draw, x: V, weight: V) -> V:
    dtype = d.dtype(x)
    wide = x
    if not d.exact and d.chance(0.5):
        wide = d.call("prims.convert_element_type.default", x, F32)
    squared = (
        d.call("aten.pow.Tensor_Scalar", wide, 2)
        if d.chance(0.7)
        else d.call("aten.mul.Tensor", wide, wide)
    )
    mean = d.call("aten.mean.dim", squared, [-1], True)
    scale = d.call("aten.rsqrt.default", d.call("aten.add.Tensor", mean, 1e-6))
    if d.chance(0.15):
        d.keep(scale)
    out = d.call("aten.mul.Tensor", wide, scale)
    if d.dtype(out) != dtype:
        out = d.call("prims.convert_element_type.default", out, dtype)
    return d.call("aten.mul.Tensor", *((out, weight) if d.chance(0.6) else (weight, out)))


def site(d: Draw) -> V:
    """A partial sum, its reduction, the residual and a norm, as a layer of a model has them."""
    part = partial(d)
    whole = reduced(d, part, None if d.chance(0.2) else "tp", "sum" if d.chance(0.8) else None)
    if d.chance(0.1):
        whole = d.call(f"aten.{d.choose(['clone', 'alias'])}.default", whole)
    if d.chance(0.75):
        stream = d.the_stream()
        if d.dialect == "vllm" and d.chance(0.5):
            weight = d.input([d.hidden], d.dtype(whole), differs=(), fill="gain", stem="g")
            both = d.call("vllm_ir.fused_add_rms_norm.default", whole, stream, weight, 1e-6)
            d.stream = d.keep(d.part(both, 1))
            return d.keep(d.part(both, 0))
        whole = d.call("aten.add.Tensor", *((whole, stream) if d.chance(0.5) else (stream, whole)))
        d.stream = whole
    if d.chance(0.6):
        d.keep(whole)
    out = norm(d, whole)
    if d.chance(0.05):
        out = d.call("aten.copy_.default", d.like(out), out)
    return d.keep(out)


MAKERS: tuple[tuple[float, Maker], ...] = ((4, moved), (7, site))
__all__ = ["MAKERS", "Rejected", "reduced", "site"]
