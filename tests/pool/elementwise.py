"""Makers of values, element by element and by reductions: what acts on numbers in any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.pool.draw import Draw
from tests.pool.kept import Rejected
from tests.pool.program import V

Maker = Callable[[Draw], V]

F64, F32, BF16, F16, I64, BOOL = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.bool,
)

UNARY: tuple[tuple[Any, ...], ...] = (
    ("relu.default",),
    ("silu.default",),
    ("gelu.default",),
    ("sigmoid.default",),
    ("tanh.default",),
    ("exp.default",),
    ("log.default",),
    ("sqrt.default",),
    ("rsqrt.default",),
    ("abs.default",),
    ("neg.default",),
    ("sin.default",),
    ("cos.default",),
    ("erf.default",),
    ("sign.default",),
    ("floor.default",),
    ("ceil.default",),
    ("round.default",),
    ("trunc.default",),
    ("frac.default",),
    ("reciprocal.default",),
    ("expm1.default",),
    ("log1p.default",),
    ("exp2.default",),
    ("log2.default",),
    ("atan.default",),
    ("asinh.default",),
    ("sinh.default",),
    ("softplus.default",),
    ("leaky_relu.default",),
    ("elu.default",),
    ("hardtanh.default",),
    ("hardswish.default",),
    ("hardsigmoid.default",),
    ("mish.default",),
    ("alias.default",),
    ("detach.default",),
    ("clone.default",),
    ("nan_to_num.default",),
    ("positive.default",),
    ("clamp.default", -1.0, 1.5),
    ("clamp_min.default", -0.5),
    ("clamp_max.default", 0.75),
    ("pow.Tensor_Scalar", 2),
    ("pow.Scalar", 1.5),
    ("add.Scalar", 0.25),
    ("sub.Scalar", 0.25),
    ("mul.Scalar", 1.5),
    ("div.Scalar", 2.0),
    ("add.Tensor", 1.5),
    ("mul.Tensor", -0.5),
    ("div.Tensor", 4),
    ("rsub.Scalar", 1.0),
    ("remainder.Scalar", 0.7),
    ("fmod.Scalar", 0.7),
    ("threshold.default", 0.1, 0.0),
)

BINARY = (
    "add.Tensor",
    "sub.Tensor",
    "mul.Tensor",
    "div.Tensor",
    "maximum.default",
    "minimum.default",
    "fmax.default",
    "fmin.default",
    "atan2.default",
    "hypot.default",
    "copysign.Tensor",
    "rsub.Tensor",
    "remainder.Tensor",
    "xlogy.Tensor",
    "logaddexp.default",
)

COMPARE = ("eq.Tensor", "ne.Tensor", "lt.Tensor", "le.Tensor", "gt.Tensor", "ge.Tensor")
COMPARE_SCALAR = ("lt.Scalar", "le.Scalar", "gt.Scalar", "ge.Scalar", "ne.Scalar")
LOGICAL = ("logical_and.default", "logical_or.default", "logical_xor.default", "bitwise_and.Tensor")


def unary(d: Draw) -> V:
    target, *extra = d.choose(UNARY)
    x = d.tensor()
    if target == "pow.Scalar":
        return d.keep(d.call("aten.pow.Scalar", *extra, x))
    if target in ("log.default", "sqrt.default", "rsqrt.default", "log2.default", "log1p.default"):
        x = d.call("aten.add.Tensor", d.call("aten.abs.default", x), 0.5)
    if target == "reciprocal.default" and d.chance(0.7):
        x = d.call("aten.add.Tensor", d.call("aten.abs.default", x), 0.5)
    return d.keep(d.call(f"aten.{target}", x, *extra))


def binary(d: Draw) -> V:
    target = d.choose(BINARY)
    x = d.tensor()
    y = d.broadcasts(x)
    if target in ("div.Tensor", "remainder.Tensor", "xlogy.Tensor"):
        y = d.call("aten.add.Tensor", d.call("aten.abs.default", y), 0.5)
    elif d.chance(0.3):
        x, y = y, x
    if target in ("add.Tensor", "sub.Tensor") and d.chance(0.15):
        return d.keep(d.call(f"aten.{target}", x, y, alpha=d.choose([2, -1, 0.5])))
    if target == "div.Tensor" and d.chance(0.1):
        return d.keep(d.call("aten.div.Tensor_mode", x, y, rounding_mode="floor"))
    return d.keep(d.call(f"aten.{target}", x, y))


def ternary(d: Draw) -> V:
    x = d.tensor(1)
    y, z = d.broadcasts(x), d.broadcasts(x)
    target = d.choose(["addcmul", "lerp", "lerp_scalar", "addcdiv", "clamp"])
    if target == "addcmul":
        return d.keep(d.call("aten.addcmul.default", x, y, z, value=d.choose([1, 0.5])))
    if target == "lerp":
        return d.keep(d.call("aten.lerp.Tensor", x, y, z))
    if target == "lerp_scalar":
        return d.keep(d.call("aten.lerp.Scalar", x, y, 0.3))
    if target == "addcdiv":
        below = d.call("aten.add.Tensor", d.call("aten.abs.default", z), 0.5)
        return d.keep(d.call("aten.addcdiv.default", x, y, below))
    return d.keep(d.call("aten.clamp.Tensor", x, None, y))


def mask_for(d: Draw, x: V) -> V:
    """A bool value that broadcasts against another."""
    if d.chance(0.3):
        shape = d.shape(x)
        found = [
            name
            for name in d.pool
            if d.is_tensor(name) and d.dtype(name) == BOOL and d.shape(name) == shape
        ]
        if found:
            return V(d.choose(found))
    if d.chance(0.4):
        return d.call(f"aten.{d.choose(COMPARE_SCALAR)}", d.broadcasts(x), 0.1)
    if d.chance(0.3):
        return d.call(f"aten.{d.choose(['isnan.default', 'isinf.default'])}", d.broadcasts(x))
    return d.call(f"aten.{d.choose(COMPARE)}", x, d.broadcasts(x))


def masks(d: Draw) -> V:
    x = d.tensor(1)
    mask = d.keep(mask_for(d, x))
    if d.chance(0.25):
        mask = d.keep(d.call(f"aten.{d.choose(LOGICAL)}", mask, mask_for(d, x)))
    if d.chance(0.2):
        mask = d.call(f"aten.{d.choose(['logical_not.default', 'bitwise_not.default'])}", mask)
    kind = d.choose(["where", "where", "fill", "scalar", "mul", "cast"])
    if kind == "where":
        y = d.broadcasts(x)
        return d.keep(d.call("aten.where.self", mask, *((x, y) if d.chance(0.5) else (y, x))))
    if kind == "fill":
        value = d.call("aten.scalar_tensor.default", 0.5, dtype=d.dtype(x))
        return d.keep(d.call("aten.masked_fill.Tensor", x, mask, value))
    if kind == "scalar":
        return d.keep(d.call("aten.masked_fill.Scalar", x, mask, 0.25))
    if kind == "mul":
        return d.keep(d.call("aten.mul.Tensor", x, mask))
    return d.keep(d.call("aten._to_copy.default", mask, dtype=d.dtype(x)))


def reduction(d: Draw) -> V:
    x = d.tensor(1)
    dim = d.a_dim(x) if d.chance(0.5) else -1
    keep = d.chance(0.6)
    kind = d.choose(
        ["sum", "mean", "amax", "amin", "sums", "norm", "logsumexp", "any", "prod", "var", "max",
         "argmax", "var_mean", "std", "whole", "softmax", "softmax", "cumsum", "cumsum", "count"]
    )  # fmt: skip
    dims = [dim]
    if d.dims(x) > 1 and d.chance(0.25):
        dims = sorted({place % d.dims(x) for place in (dim, d.a_dim(x))})
    if kind in ("sum", "mean", "amax", "amin"):
        target = {"sum": "sum.dim_IntList", "mean": "mean.dim"}.get(kind, f"{kind}.default")
        return d.keep(d.call(f"aten.{target}", x, dims, keep))
    if kind == "sums":
        return d.keep(d.call("aten.sum.dim_IntList", x, dims, keep, dtype=d.dtype(x)))
    if kind == "norm":
        return d.keep(d.call("aten.linalg_vector_norm.default", x, d.choose([2, 1]), dims, keep))
    if kind == "logsumexp":
        return d.keep(d.call("aten.logsumexp.default", x, dims, keep))
    if kind == "any":
        mask = d.call("aten.gt.Scalar", x, 1.0)
        return d.keep(d.call(f"aten.{d.choose(['any', 'all'])}.dim", mask, dim, keep))
    if kind == "count":
        mask = d.call("aten.gt.Scalar", x, 0.0)
        return d.keep(d.call("aten.sum.dim_IntList", mask, dims, keep))
    if kind == "prod":
        return d.keep(d.call("aten.prod.dim_int", x, dim, keep))
    if kind in ("var", "std"):
        return d.keep(d.call(f"aten.{kind}.correction", x, dims, correction=0, keepdim=keep))
    if kind == "var_mean":
        both = d.call("aten.var_mean.correction", x, dims, correction=0, keepdim=keep)
        return d.keep(*d.parts(both))
    if kind == "max":
        both = d.call(f"aten.{d.choose(['max', 'min'])}.dim", x, dim, keep)
        return d.keep(d.part(both, 1), d.part(both, 0))
    if kind == "argmax":
        return d.keep(d.call(f"aten.{d.choose(['argmax', 'argmin'])}.default", x, dim, keep))
    if kind == "whole":
        target = d.choose(["sum.default", "mean.default", "max.default", "min.default"])
        return d.keep(d.call(f"aten.{target}", x))
    if kind == "softmax":
        target = d.choose(["_softmax", "_log_softmax"])
        return d.keep(d.call(f"aten.{target}.default", x, dim, False))
    target = d.choose(["cumsum", "cumsum", "cumprod", "logcumsumexp"])
    return d.keep(d.call(f"aten.{target}.default", x, dim))


def cast(d: Draw) -> V:
    x = d.tensor()
    if d.exact:
        dtype = d.choose([F64, I64, BOOL])
        back = d.call("aten._to_copy.default", x, dtype=dtype)
        d.keep(back)
        return d.keep(d.call("prims.convert_element_type.default", back, F64))
    kind = d.choose(["to", "to", "convert", "fp8", "bytes"])
    if kind == "to":
        return d.keep(d.call("aten._to_copy.default", x, dtype=d.choose([F32, BF16, F64, F16])))
    if kind == "convert":
        return d.keep(d.call("prims.convert_element_type.default", x, d.choose([F32, BF16, F64])))
    small = d.call("aten._to_copy.default", d.call("aten.clamp.default", x, -448, 448),
                   dtype=torch.float8_e4m3fn)  # fmt: skip
    if kind == "bytes":
        seen = d.call("aten.view.dtype", small, torch.uint8)
        seen = d.call("aten.view.dtype", seen, torch.float8_e4m3fn)
        return d.keep(d.call("aten._to_copy.default", seen, dtype=F32))
    d.keep(small)
    return d.keep(d.call("aten._to_copy.default", small, dtype=d.choose([F32, F64])))


def created(d: Draw) -> V:
    """Values that read no values, or only the shape of one."""
    kind = d.choose(
        ["arange", "iota", "full", "zeros", "like", "like", "new", "eye", "empty", "scalar"]
    )
    if kind in ("like", "new", "empty"):
        x = d.tensor(1)
        if kind == "empty":
            fresh = d.call("aten.empty_like.default", x)
            return d.keep(d.call("aten.fill.Scalar", fresh, 0.5))
        if kind == "new":
            return d.keep(d.call("aten.new_full.default", x, [d.size(x, -1)], 0.75))
        target, *extra = d.choose(
            [("full_like.default", 0.5), ("zeros_like.default",), ("ones_like.default",)]
        )
        return d.keep(d.call(f"aten.{target}", x, *extra))
    if kind == "scalar":
        return d.keep(d.call("aten.scalar_tensor.default", 1.25, dtype=F64))
    size = d.choose([*d.rows_operand(), d.hidden])
    if kind == "arange":
        whole = d.call("aten.arange.start_step", 0, size, 1)
        d.keep(whole)
        return d.keep(d.call("aten._to_copy.default", whole, dtype=F64))
    if kind == "iota":
        whole = d.call(
            "prims.iota.default", size, start=0, step=1, dtype=I64, device=torch.device("cpu"),
            requires_grad=False,
        )  # fmt: skip
        d.keep(whole)
        return d.keep(d.call("prims.convert_element_type.default", whole, F64))
    if kind == "eye":
        return d.keep(d.call("aten.eye.default", size, dtype=F64))
    shape = [*d.rows_operand(), d.hidden] if d.chance(0.5) else [size]
    if kind == "full":
        return d.keep(d.call("aten.full.default", shape, 0.5, dtype=F64))
    return d.keep(d.call(f"aten.{d.choose(['zeros', 'ones'])}.default", shape, dtype=F64))


def drawn(d: Draw) -> V:
    """Random numbers."""
    kind = d.choose(
        ["dropout", "dropout", "bernoulli", "rand_like", "randn_like", "rand", "normal"]
    )
    if kind in ("rand", "normal"):
        shape = [*d.rows_operand(), d.hidden]
        return d.keep(
            d.call(f"aten.{'rand' if kind == 'rand' else 'randn'}.default", shape, dtype=F64)
        )
    x = d.tensor(1)
    if kind == "dropout":
        both = d.call("aten.native_dropout.default", x, 0.3, True)
        return d.keep(d.part(both, 1), d.part(both, 0))
    if kind == "bernoulli":
        mask = d.call("aten.bernoulli.p", x, 0.6)
        return d.keep(d.call("aten.mul.Tensor", x, mask))
    return d.keep(d.call(f"aten.{kind}.default", x))


def numbers(d: Draw) -> V:
    """Numbers read out of tensors, and what describes a tensor."""
    x = d.tensor(1)
    kind = d.choose(["size", "stride", "numel", "offset", "item", "item"])
    if kind == "item":
        counted = d.call("aten.sum.default", d.call("aten.gt.Scalar", x, 0.3))
        number = d.call("aten._local_scalar_dense.default", counted)
        y = d.tensor(1)
        if d.chance(0.5):
            return d.keep(d.call("aten.mul.Tensor", y, number))
        return d.keep(d.call("aten.full.default", [d.size(y, -1)], number, dtype=F64))
    if kind == "numel":
        number = d.call("aten.sym_numel.default", x)
    elif kind == "offset":
        number = d.call("aten.sym_storage_offset.default", x)
    else:
        number = d.call(f"aten.sym_{kind}.int", x, d.a_dim(x))
    if d.chance(0.4):
        return d.keep(number)
    return d.keep(d.call("aten.mul.Tensor", d.tensor(), number))


MAKERS: tuple[tuple[float, Maker], ...] = (
    (6, unary),
    (8, binary),
    (1, ternary),
    (2, masks),
    (5, reduction),
    (1.2, cast),
    (1.2, created),
    (0.8, drawn),
    (1.2, numbers),
)
__all__ = ["MAKERS", "Maker", "Rejected"]
