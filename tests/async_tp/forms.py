"""Graphs with pairs, one a form: what every test of them is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from spfast.testing import ops
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
RANKS = 2
FP8 = torch.float8_e4m3fn
ops.declare()


class Pairs(GraphBuilder):
    """A graph of collectives and products; each rank holds its own part or rows."""

    def __init__(
        self,
        dialect: str = "functional",
        dynamic: bool = False,
        dtype: Any = torch.float32,
        scattered: bool = False,
    ) -> None:
        super().__init__(16, dynamic)
        self.dialect = dialect
        self.rows: Any = TOKENS if dynamic else 16
        self.dtype = dtype
        self.scattered = scattered

    def whole(self, name: str, features: int = 32, dtype: Any = None) -> fx.Node:
        """A value that each rank has of its own, with a row a token."""
        kind = "per_rank"
        return self.placeholder(name, (self.rows, features), dtype or self.dtype, kind)

    def shard(self, name: str, features: int = 32, dtype: Any = None) -> fx.Node:
        """This rank's rows: of so many tokens that all ranks together have twice as many."""
        if not self.scattered:
            return self.whole(name, features, dtype)
        kind, rows = "per_rank", RANKS * self.hint
        return self.scatter(self.placeholder(name, (rows, features), dtype or self.dtype, kind))

    def weight(self, name: str, inside: int = 32, out: int = 48, dtype: Any = None) -> fx.Node:
        """A column-major weight [inside, out]."""
        rows = self.placeholder(name, (out, inside), dtype or self.dtype, "per_rank", 0.2)
        return self.call(aten.permute.default, rows, [1, 0])

    def scatter(self, part: fx.Node, op: str = "sum") -> fx.Node:
        if self.dialect == "vllm":
            return self.call(torch.ops.vllm.reduce_scatter.default, part, 0, RANKS, "tp:0")
        return self.call(
            c10d.wait_tensor.default,
            self.call(c10d.reduce_scatter_tensor.default, part, op, RANKS, "0"),
        )

    def gather(self, shard: fx.Node) -> fx.Node:
        if self.dialect == "vllm":
            return self.call(torch.ops.vllm.all_gather.default, shard, 0, RANKS, "tp:0")
        return self.call(
            c10d.wait_tensor.default,
            self.call(c10d.all_gather_into_tensor.default, shard, RANKS, "0"),
        )

    def mm(self, left: fx.Node, right: fx.Node) -> fx.Node:
        return self.call(aten.mm.default, left, right)

    def fp8(self, value: fx.Node) -> fx.Node:
        return self.call(torch.ops.prims.convert_element_type.default, value, FP8)

    def one(self, name: str) -> fx.Node:
        return self.placeholder(name, (), torch.float32, "constant", 0.5)

    def scaled(self, left: fx.Node, right: fx.Node, *scales: fx.Node) -> fx.Node:
        return self.call(aten._scaled_mm.default, left, right, *scales, None, None, torch.bfloat16)


Body = Callable[[Pairs], Any]


def scattered(b: Pairs) -> Any:
    return b.scatter(b.mm(b.whole("x"), b.weight("w")))


def gathered(b: Pairs) -> Any:
    return b.mm(b.gather(b.shard("x")), b.weight("w"))


def several_readers(b: Pairs) -> Any:
    x = b.gather(b.shard("x"))
    return [b.mm(x, b.weight(name, out=out)) for name, out in (("q", 32), ("k", 16), ("v", 16))]


def weights_after(b: Pairs) -> Any:
    """The second weight is made after the first product, which it does not depend on."""
    x = b.gather(b.shard("x"))
    first = b.mm(x, b.weight("gate"))
    doubled = b.call(aten.mul.Tensor, b.weight("up"), 2.0)
    return first, b.mm(x, doubled)


def one_after_the_other(b: Pairs) -> Any:
    """The second product's weight comes of the first: it reads what is returned."""
    x = b.gather(b.shard("x"))
    first = b.mm(x, b.weight("w"))
    square = b.call(aten.mm.default, b.call(aten.permute.default, x, [1, 0]), first)
    return b.mm(x, square)


def read_elsewhere(b: Pairs) -> Any:
    x = b.gather(b.shard("x"))
    return b.mm(x, b.weight("w")), b.call(aten.relu.default, x)


def backward(b: Pairs) -> Any:
    """One gather of the output's gradient for dX and dW."""
    dy = b.gather(b.shard("dy", 48))
    weight = b.placeholder("w", (48, 32), b.dtype, "per_rank", 0.2)
    x = b.placeholder("x", (32 if b.rows == 16 else 2 * b.hint, 32), b.dtype, "per_rank")
    dx = b.mm(dy, weight)
    dw = b.mm(b.call(aten.permute.default, dy, [1, 0]), x)
    return dx, dw


def scatter_of_transposed(b: Pairs) -> Any:
    """dX = dY W^T of a column-parallel layer."""
    weight = b.placeholder("w", (32, 48), b.dtype, "per_rank", 0.2)
    turned = b.call(aten.permute.default, weight, [1, 0])
    return b.scatter(b.mm(b.whole("dy", 48), turned))


def _viewed(b: Pairs, value: fx.Node) -> fx.Node:
    return b.call(aten.reshape.default, value, [2, -1, value.meta["val"].shape[-1]])


def _gradient(b: Pairs, name: str, features: int) -> fx.Node:
    """What one of several projections of one value adds to that value's gradient."""
    weight = b.placeholder(f"w_{name}", (features, 48), b.dtype, "per_rank", 0.2)
    return b.mm(b.whole(f"d_{name}", features), weight)


def scatter_of_sum(b: Pairs) -> Any:
    """The gradient of what q, k and v read."""
    q, k, v = (_gradient(b, name, n) for name, n in (("q", 24), ("k", 12), ("v", 12)))
    return b.scatter(b.call(aten.add.Tensor, b.call(aten.add.Tensor, q, k), v))


def scatter_of_wide_sum(b: Pairs) -> Any:
    """The gradient of what gate and up read: joined they would be copied, so each is fused."""
    gate, up = (_gradient(b, name, 32) for name in ("gate", "up"))
    return b.scatter(b.call(aten.add.Tensor, gate, up))


def scatter_of_viewed_wide_sum(b: Pairs) -> Any:
    gate, up = (_viewed(b, _gradient(b, name, 32)) for name in ("gate", "up"))
    total = b.call(aten.add.Tensor, gate, up)
    return b.scatter(b.call(aten.reshape.default, total, [-1, 48]))


def scatter_of_viewed_sum(b: Pairs) -> Any:
    gate, up = (_viewed(b, _gradient(b, name, 16)) for name in ("gate", "up"))
    total = b.call(aten.add.Tensor, gate, up)
    return b.scatter(b.call(aten.reshape.default, total, [-1, 48]))


def through_views(b: Pairs) -> Any:
    """[B, S, H] before the reduce_scatter, and after the gather."""
    part = _viewed(b, b.mm(b.whole("x"), b.weight("w", out=32)))
    rows = b.scatter(part)
    flat = b.call(aten.reshape.default, rows, [-1, 32])
    full = b.gather(b.call(aten.relu.default, flat))
    wide = b.call(aten.clone.default, _viewed(b, full))
    return rows, b.mm(b.call(aten.reshape.default, wide, [-1, 32]), b.weight("u"))


def scattered_and_gathered(b: Pairs) -> Any:
    """What one fused operator yields is what the next one gathers."""
    rows = b.scatter(b.mm(b.whole("x"), b.weight("w", out=32)))
    return b.mm(b.gather(rows), b.weight("u"))


def wide_sum(b: Pairs) -> Any:
    """Cast up, summed, cast back."""
    cast = torch.ops.prims.convert_element_type.default
    part = b.call(cast, b.mm(b.whole("x"), b.weight("w")), torch.float64)
    return b.call(cast, b.scatter(part), b.dtype)


def narrowed(b: Pairs) -> Any:
    """Gathered and then rounded: it is rounded and then gathered."""
    cast = torch.ops.prims.convert_element_type.default
    x = b.call(cast, b.gather(b.shard("x", dtype=torch.float32)), torch.bfloat16)
    return b.mm(x, b.weight("w", dtype=torch.bfloat16))


def with_bias(b: Pairs) -> Any:
    bias = b.placeholder("bias", (48,), b.dtype)
    return b.call(aten.addmm.default, bias, b.gather(b.shard("x")), b.weight("w"))


def added_rows(b: Pairs) -> Any:
    rows = b.scatter(b.mm(b.whole("x"), b.weight("w")))
    return b.call(aten.add.Tensor, b.call(aten.relu.default, rows), rows)


def one_scale(b: Pairs) -> Any:
    x, w = b.fp8(b.shard("x")), b.weight("w")
    whole = b.gather(x)
    return b.scaled(whole, b.fp8(w), b.one("s"), b.one("t"))


def one_scale_scattered(b: Pairs) -> Any:
    left, right = b.fp8(b.whole("x")), b.fp8(b.weight("w"))
    return b.scatter(b.scaled(left, right, b.one("s"), b.one("t")))


def _row_scales(b: Pairs, value: fx.Node) -> fx.Node:
    return b.call(aten.amax.default, b.call(aten.abs.default, value), [-1], True)


def scales_by_row(b: Pairs) -> Any:
    """The scales of this rank's rows are gathered, too."""
    x = b.shard("x")
    scale = b.gather(_row_scales(b, x))
    columns = b.placeholder("t", (1, 48), torch.float32, "gain")
    return b.scaled(b.gather(b.fp8(x)), b.fp8(b.weight("w")), scale, columns)


def scales_by_row_scattered(b: Pairs) -> Any:
    x = b.whole("x")
    columns = b.placeholder("t", (1, 48), torch.float32, "gain")
    left, right = b.fp8(x), b.fp8(b.weight("w"))
    return b.scatter(b.scaled(left, right, _row_scales(b, x), columns))


def as_bytes(b: Pairs) -> Any:
    raw = b.call(aten.view.dtype, b.fp8(b.shard("x")), torch.uint8)
    x = b.call(aten.view.dtype, b.gather(raw), FP8)
    return b.scaled(x, b.fp8(b.weight("w")), b.one("s"), b.one("t"))


def _cutlass(b: Pairs, left: fx.Node, right: fx.Node) -> fx.Node:
    rows, columns = left.meta["val"].shape[0], right.meta["val"].shape[1]
    given = {
        "out": b.call(aten.empty.memory_format, [rows, columns], dtype=torch.bfloat16),
        "a": left,
        "b": right,
        "a_scales": b.one("s"),
        "b_scales": b.one("t"),
        "bias": None,
    }
    wrapped = torch.ops.higher_order.auto_functionalized
    call = b.call(wrapped, torch.ops._C.cutlass_scaled_mm.default, **given)
    import operator

    return b.call(operator.getitem, call, 1)


def cutlass(b: Pairs) -> Any:
    return _cutlass(b, b.gather(b.fp8(b.shard("x"))), b.fp8(b.weight("w")))


def cutlass_scattered(b: Pairs) -> Any:
    return b.scatter(_cutlass(b, b.fp8(b.whole("x")), b.fp8(b.weight("w"))))


def _flashinfer(b: Pairs, left: fx.Node, right: fx.Node) -> fx.Node:
    call = b.call(
        torch.ops.vllm.bmm_fp8.default,
        b.call(aten.unsqueeze.default, left, 0),
        b.call(aten.unsqueeze.default, right, 0),
        b.one("s"),
        b.one("t"),
        torch.bfloat16,
        "auto",
    )
    return b.call(aten.reshape.default, call, [-1, 48])


def flashinfer(b: Pairs) -> Any:
    return _flashinfer(b, b.gather(b.fp8(b.shard("x"))), b.fp8(b.weight("w")))


def flashinfer_scattered(b: Pairs) -> Any:
    return b.scatter(_flashinfer(b, b.fp8(b.whole("x")), b.fp8(b.weight("w"))))


# How many collectives each has, all of which are fused (those of scales go with what they scale).
FORMS: dict[Body, int] = {
    scattered: 1,
    gathered: 1,
    several_readers: 1,
    weights_after: 1,
    one_after_the_other: 1,
    read_elsewhere: 1,
    backward: 1,
    scatter_of_transposed: 1,
    scatter_of_sum: 1,
    scatter_of_wide_sum: 1,
    scatter_of_viewed_wide_sum: 1,
    scatter_of_viewed_sum: 1,
    through_views: 2,
    scattered_and_gathered: 2,
    wide_sum: 1,
    narrowed: 1,
    with_bias: 1,
    added_rows: 1,
    one_scale: 1,
    one_scale_scattered: 1,
    scales_by_row: 1,
    scales_by_row_scattered: 1,
    as_bytes: 1,
    cutlass: 1,
    cutlass_scattered: 1,
    flashinfer: 1,
    flashinfer_scattered: 1,
}
# Their shapes do not say how many tokens there are where that is symbolic.
# Rounded at another place than before, of which the verifier's terms say nothing: rows that are
# gathered need a reduce_scatter that made them, and what is summed wider is not followed at all.
ROUNDED_FIRST, SUMMED_WIDER = {narrowed, as_bytes}, {wide_sum}
STATIC = {backward, cutlass, cutlass_scattered}


def build(body: Body, **options: Any) -> Pairs:
    builder = Pairs(**options)
    result = body(builder)
    builder.output([result] if isinstance(result, fx.Node) else list(result))
    return builder
