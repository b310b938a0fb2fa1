"""Static per-tensor quantisation to float8, whole or decomposed: building blocks of rules.

The scale may be a tensor or a number. The value is divided by the scale or multiplied with its
reciprocal, which is computed outside the token stream.
"""

from __future__ import annotations

import torch

from spfast.patterns.blocks import Block
from spfast.patterns.building import either, functionalized
from spfast.patterns.rmsnorm import cast, widened
from spfast.patterns.values import Captures, Value, default, one_of, ops

__all__ = ["QUANTS"]

# The largest numbers of e4m3fn, e5m2 and e4m3fnuz, and the smaller limit that graphs clamp e4m3fnuz
# to.
LIMITS = (448.0, 57344.0, 240.0, 224.0)
DTYPES = one_of(
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz
)


def custom_op(x: Value, c: Captures) -> Value:
    """vLLM's operator, which writes to an empty tensor."""
    call = functionalized(
        ops._C.static_scaled_fp8_quant,
        mutates=["result"],
        result=c.buffer("quantised"),
        input=x,
        scale=c.scale,
        group_shape=default(None),
    )
    return call["result"]


def _scaled(x: Value, c: Captures) -> Value:
    return either(ops.aten.mul.Tensor(x, c.scale), ops.aten.div.Tensor(x, c.scale))


def _clamped(x: Value) -> Value:
    return either(*(ops.aten.clamp(x, -limit, limit) for limit in LIMITS))


def _clamped_twice(x: Value) -> Value:
    above = either(*(ops.aten.clamp_min(x, -limit) for limit in LIMITS))
    return either(*(ops.aten.clamp_max(above, limit) for limit in LIMITS))


def clamped(x: Value, c: Captures) -> Value:
    """Scaled, clamped by one operator, cast."""
    return cast(_clamped(_scaled(x, c)), DTYPES)


def clamped_twice(x: Value, c: Captures) -> Value:
    """Clamped from below and then from above, as Inductor decomposes it."""
    return cast(_clamped_twice(_scaled(x, c)), DTYPES)


def clamped_wide(x: Value, c: Captures) -> Value:
    """Scaled in a narrow dtype; Inductor clamps it in float32 and casts back first."""
    wide = _clamped_twice(cast(_scaled(x, c), torch.float32))
    return cast(cast(wide, c.scaled_dtype), DTYPES)


QUANTS: tuple[Block, ...] = (
    custom_op,
    clamped,
    clamped_twice,
    clamped_wide,
    widened(clamped),
    widened(clamped_twice),
)
"""Every form of the quantisation, each from the normed value to the quantised."""
