"""Makers of values by shape, by index, by product, and by writing in place."""

from __future__ import annotations

import torch

from tests.pool.draw import Draw
from tests.pool.elementwise import F64, I64, Maker
from tests.pool.kept import Rejected
from tests.pool.program import V

MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last)


def view(d: Draw) -> V:
    """Sees the elements in other dims."""
    x = d.tensor(1)
    kind = d.choose(["flat", "merge", "split", "same", "infer", "one"])
    target = f"aten.{d.choose(['view', 'view', 'reshape', '_unsafe_view'])}.default"
    dims = d.dims(x)
    sizes = [d.size(x, place) for place in range(dims)]
    if kind == "flat":
        return d.keep(d.call(target, x, [-1] if d.chance(0.5) else [d.product(sizes)]))
    if kind == "merge":
        if dims < 2:
            raise Rejected("one dim")
        place = d.random.randrange(dims - 1)
        merged = -1 if d.chance(0.4) else d.product(sizes[place : place + 2])
        return d.keep(d.call(target, x, [*sizes[:place], merged, *sizes[place + 2 :]]))
    if kind == "split":
        place = d.random.randrange(dims)
        if isinstance(sizes[place], int):
            inner = d.choose([2, 3, 4])
            outer = sizes[place] // inner
        elif len(d.symbols) > 1 and d.chance(0.5):
            outer, inner = (d.size(d.the_stream(), index) for index in (0, -2))
        else:
            inner = d.choose([2, d.world.tp])
            outer = d.call("operator.floordiv", sizes[place], inner)
        if d.chance(0.3):
            outer, inner = inner, outer
        if d.chance(0.3):
            outer, inner = (-1, inner) if d.chance(0.5) else (outer, -1)
        return d.keep(d.call(target, x, [*sizes[:place], outer, inner, *sizes[place + 1 :]]))
    if kind == "one":
        place = d.random.randrange(dims + 1)
        return d.keep(d.call(target, x, [*sizes[:place], 1, *sizes[place:]]))
    if kind == "infer":
        place = d.random.randrange(dims)
        return d.keep(d.call(target, x, [*sizes[:place], -1, *sizes[place + 1 :]]))
    return d.keep(d.call(target, x, sizes))


def arranged(d: Draw) -> V:
    """Dims in another order, added, dropped or repeated."""
    x = d.tensor(1)
    dims = d.dims(x)
    kind = d.choose(
        ["permute", "transpose", "t", "unsqueeze", "unsqueeze", "squeeze", "squeezes", "expand",
         "repeat", "flip", "roll", "clone", "contiguous", "diagonal", "tril", "flatten"]
    )  # fmt: skip
    if kind == "permute":
        order = list(range(dims))
        d.random.shuffle(order)
        return d.keep(d.call("aten.permute.default", x, order))
    if kind == "transpose":
        return d.keep(d.call("aten.transpose.int", x, d.a_dim(x), d.a_dim(x)))
    if kind == "t":
        return d.keep(d.call("aten.t.default", x))
    if kind == "unsqueeze":
        return d.keep(d.call("aten.unsqueeze.default", x, d.random.randrange(-dims - 1, dims + 1)))
    if kind in ("squeeze", "squeezes"):
        ones = [place for place, size in enumerate(d.shape(x)) if size == 1]
        place = d.choose(ones) if ones else d.a_dim(x)
        if kind == "squeeze":
            return d.keep(d.call("aten.squeeze.dim", x, place))
        return d.keep(d.call("aten.squeeze.dims", x, [place]))
    if kind == "expand":
        sizes = [d.size(x, place) if d.chance(0.6) else -1 for place in range(dims)]
        for place, size in enumerate(d.shape(x)):
            if size == 1:
                sizes[place] = d.choose([2, 3])
        front = [d.choose([2, 1])] if d.chance(0.5) else []
        return d.keep(d.call("aten.expand.default", x, [*front, *sizes]))
    if kind == "repeat":
        return d.keep(d.call("aten.repeat.default", x, [d.choose([1, 2]) for _ in range(dims)]))
    if kind == "flip":
        return d.keep(d.call("aten.flip.default", x, [d.a_dim(x)]))
    if kind == "roll":
        return d.keep(d.call("aten.roll.default", x, [1], [d.a_dim(x)]))
    if kind == "diagonal":
        return d.keep(d.call("aten.diagonal.default", x))
    if kind == "tril":
        return d.keep(d.call(f"aten.{d.choose(['tril', 'triu'])}.default", x))
    if kind == "flatten":
        return d.keep(d.call("aten.flatten.using_ints", x, 0, d.a_dim(x)))
    if kind == "contiguous":
        return d.keep(d.call("aten.contiguous.default", x))
    layout = torch.channels_last if dims == 4 else d.choose(MEMORY_FORMATS[:2])
    return d.keep(d.call("aten.clone.default", x, memory_format=layout))


def pieces(d: Draw) -> V:
    """Parts of a value, and values put together."""
    x = d.tensor(1)
    dim = d.a_dim(x)
    kind = d.choose(
        ["split", "sizes", "chunk", "unbind", "select", "slice", "slice", "narrow", "cat", "cat",
         "stack", "pad", "strided", "put", "put_row", "unfold"]
    )  # fmt: skip
    if kind in ("split", "chunk", "unbind", "sizes"):
        if kind == "split":
            many = d.call("aten.split.Tensor", x, d.choose([1, 2, 3]), dim)
        elif kind == "chunk":
            many = d.call("aten.chunk.default", x, 2, dim)
        elif kind == "unbind":
            many = d.call("aten.unbind.int", x, dim)
        else:
            size = d.shape(x)[dim]
            if not isinstance(size, int) or size < 2:
                raise Rejected("its parts have no sizes")
            many = d.call("aten.split_with_sizes.default", x, [1, size - 1], dim)
        parts = d.parts(many)
        if not parts:
            raise Rejected("no parts")
        if d.chance(0.5):
            return d.keep(d.call("aten.cat.default", parts[::-1], dim))
        return d.keep(*parts[:3])
    if kind == "select":
        return d.keep(d.call("aten.select.int", x, dim, d.choose([0, -1, 1])))
    if kind == "slice":
        low, high = d.choose([(0, 2), (1, 9223372036854775807), (-2, 9223372036854775807), (0, -1)])
        step = d.choose([1, 1, 1, 2])
        return d.keep(d.call("aten.slice.Tensor", x, dim, low, high, step))
    if kind == "narrow":
        return d.keep(d.call("aten.narrow.default", x, dim, d.choose([0, 1]), d.choose([1, 2])))
    if kind in ("cat", "stack"):
        parts = [x, d.like(x)]
        if d.chance(0.3):
            parts.append(d.like(x))
        return d.keep(d.call(f"aten.{kind}.default", parts, dim))
    if kind == "pad":
        return d.keep(d.call("aten.constant_pad_nd.default", x, [d.choose([0, 1]), 1], 0.5))
    if kind == "strided":
        size = d.choose([2, 3])
        return d.keep(
            d.call(
                "aten.as_strided.default", x, [size, 2], [d.choose([1, 2, 4]), 1], d.choose([0, 1])
            )
        )
    if kind == "put":
        part = d.call("aten.slice.Tensor", x, dim, 0, 1)
        part = d.call("aten.mul.Tensor", part, 2.0)
        return d.keep(d.call("aten.slice_scatter.default", x, part, dim, 0, 1))
    if kind == "put_row":
        part = d.call("aten.select.int", x, dim, 0)
        part = d.call("aten.neg.default", part)
        return d.keep(d.call("aten.select_scatter.default", x, part, dim, 0))
    return d.keep(d.call("aten.unfold.default", x, dim, 2, 1))


def indexed(d: Draw) -> V:
    """Reads and writes at indices, and orders values."""
    x = d.tensor(1)
    dim = d.a_dim(x)
    least = min(d.sizes(x)) if d.sizes(x) else 0
    if least < 1:
        raise Rejected("nothing to index")
    kind = d.choose(
        ["gather", "select", "index", "put", "scatter", "scatter_value", "scatter_add", "embedding",
         "topk", "topk", "sort", "argsort", "take_along", "mask_put", "index_add"]
    )  # fmt: skip
    if kind in ("topk", "sort"):
        both = (
            d.call("aten.topk.default", x, 1 if least < 2 else d.choose([1, 2]), dim)
            if kind == "topk"
            else d.call("aten.sort.default", x, dim)
        )
        indices = d.part(both, 1)
        return d.keep(indices, d.part(both, 0))
    if kind == "argsort":
        return d.keep(d.call("aten.argsort.default", x, dim))
    if kind == "take_along":
        order = d.call("aten.argsort.default", d.like(x), dim)
        return d.keep(d.call("aten.gather.default", x, dim, order))
    if kind in ("gather", "scatter", "scatter_value", "scatter_add"):
        index = d.keep(d.input(_all_writable(d, x), I64, fill=f"index:{least}", stem="i"))
        if kind == "gather":
            return d.keep(d.call("aten.gather.default", x, dim, index))
        if kind == "scatter_value":
            return d.keep(d.call("aten.scatter.value", x, dim, index, 0.5))
        if kind == "scatter":
            # One index a place: a second write to a place would win in any order.
            index = d.call("aten.argsort.default", d.like(x), dim)
            return d.keep(d.call("aten.scatter.src", x, dim, index, d.like(x)))
        return d.keep(d.call("aten.scatter_add.default", x, dim, index, d.like(x)))
    size = d.choose([2, 3, d.shape(x)[0]])
    if isinstance(size, str) and size.startswith("~"):
        raise Rejected("no input has such a size")
    index = d.keep(d.input([size], I64, fill=f"index:{least}", stem="i"))
    if kind == "select":
        return d.keep(d.call("aten.index_select.default", x, dim, index))
    if kind == "index":
        if d.dims(x) > 1 and d.chance(0.3):
            return d.keep(d.call("aten.index.Tensor", x, [None, index]))
        return d.keep(d.call("aten.index.Tensor", x, [index]))
    if kind == "put":
        return d.keep(d.call("aten.index_put.default", x, [index], _scalar(d, x), d.chance(0.5)))
    if kind == "mask_put":
        mask = d.call("aten.gt.Scalar", x, 0.4)
        return d.keep(d.call("aten.index_put.default", x, [mask], _scalar(d, x)))
    if kind == "index_add":
        rows = d.call("aten.index_select.default", x, 0, index)
        return d.keep(d.call("aten.index_add.default", x, 0, index, rows))
    if kind == "embedding":
        if d.dims(x) != 2:
            raise Rejected("no table")
        if d.chance(0.5):
            index = d.input(d.rows, I64, fill=f"index:{least}", stem="i")
        return d.keep(d.call("aten.embedding.default", x, index))
    raise Rejected(kind)


def _all_writable(d: Draw, x: V) -> tuple[int | str, ...]:
    shape = d.shape(x)
    if any(isinstance(size, str) and size.startswith("~") for size in shape):
        raise Rejected("no input has such a size")
    return shape


def _scalar(d: Draw, x: V) -> V:
    return d.call("aten.scalar_tensor.default", 0.5, dtype=d.dtype(x))


def product(d: Draw) -> V:
    """Products of matrices and vectors."""
    x = d.tensor(1, 3)
    last = d.shape(x)[-1]
    dims = d.dims(x)
    kind = d.choose(
        ["mm", "addmm", "matmul", "linear", "bmm", "baddbmm", "einsum", "mv", "outer", "gram"]
    )
    if isinstance(last, str):
        raise Rejected("symbolic features")
    if kind in ("mm", "addmm"):
        if dims != 2:
            raise Rejected("no matrix")
        out = d.choose([2, 3, d.hidden])
        weight = d.keep(d.input([last, out], d.dtype(x), fill="small", stem="w"))
        if kind == "mm":
            return d.keep(d.call("aten.mm.default", x, weight))
        bias = d.input([out], d.dtype(x))
        return d.keep(d.call("aten.addmm.default", bias, x, weight))
    if kind == "matmul":
        weight = d.keep(
            d.input([last, d.choose([2, d.hidden])], d.dtype(x), fill="small", stem="w")
        )
        return d.keep(d.call("aten.matmul.default", x, weight))
    if kind == "linear":
        out = d.choose([2, d.hidden])
        weight = d.keep(d.input([out, last], d.dtype(x), fill="small", stem="w"))
        bias = (d.input([out], d.dtype(x)),) if d.chance(0.4) else ()
        return d.keep(d.call("aten.linear.default", x, weight, *bias))
    if kind in ("bmm", "baddbmm"):
        if dims != 3:
            x = d.call("aten.unsqueeze.default", x, 0) if dims == 2 else d.tensor(3, 3)
        y = d.call("aten.transpose.int", d.like(x), 1, 2)
        scores = d.keep(d.call("aten.bmm.default", x, y))
        if kind == "bmm":
            return scores
        return d.keep(d.call("aten.baddbmm.default", x, scores, x))
    if kind == "einsum":
        text = {1: "i,i->i", 2: d.choose(["ij,ij->i", "ij,ik->jk", "ij,kj->ik"])}.get(dims)
        text = text or d.choose(["abj,abj->ab", "abj,acj->abc", "abj,abk->jk"])
        return d.keep(d.call("aten.einsum.default", text, [x, d.like(x)]))
    if kind == "mv":
        if dims != 2:
            raise Rejected("no matrix")
        return d.keep(d.call("aten.mv.default", x, d.input([last], d.dtype(x))))
    if kind == "outer":
        if dims != 1:
            raise Rejected("no vector")
        return d.keep(d.call("aten.outer.default", x, x))
    if dims != 2:
        raise Rejected("no matrix")
    return d.keep(d.call("aten.mm.default", d.call("aten.t.default", x), x))


def written(d: Draw) -> V:
    """Writes in place."""
    x = d.tensor(1)
    kind = d.choose(
        ["add_", "add_", "mul_", "copy_", "copy_", "relu_", "zero_", "fill_", "masked_fill_",
         "index_put_", "clamp_", "row", "index_copy_"]
    )  # fmt: skip
    if kind == "row":
        x = d.call("aten.select.int", x, 0, 0)
        return d.keep(d.call("aten.mul_.Tensor", x, 0.5))
    if kind in ("add_", "mul_"):
        return d.keep(d.call(f"aten.{kind}.Tensor", x, d.broadcasts(x)))
    if kind == "copy_":
        return d.keep(d.call("aten.copy_.default", x, d.broadcasts(x)))
    if kind in ("relu_", "zero_"):
        return d.keep(d.call(f"aten.{kind}.default", x))
    if kind == "fill_":
        return d.keep(d.call("aten.fill_.Scalar", x, 0.5))
    if kind == "clamp_":
        return d.keep(d.call("aten.clamp_.default", x, -1.0, 1.0))
    if kind == "masked_fill_":
        mask = d.call("aten.gt.Scalar", x, 0.5)
        return d.keep(d.call("aten.masked_fill_.Scalar", x, mask, 0.0))
    index = d.input([2], I64, fill=f"index:{max(min(d.sizes(x), default=1), 1)}", stem="i")
    if kind == "index_copy_":
        rows = d.call("aten.mul.Tensor", d.call("aten.index_select.default", x, 0, index), 2.0)
        return d.keep(d.call("aten.index_copy_.default", x, 0, index, rows))
    return d.keep(d.call("aten.index_put_.default", x, [index], _scalar(d, x), False))


MAKERS: tuple[tuple[float, Maker], ...] = (
    (4, view),
    (3.5, arranged),
    (4.5, pieces),
    (2.5, indexed),
    (3, product),
    (1.2, written),
)
__all__ = ["F64", "MAKERS"]
