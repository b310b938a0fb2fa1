"""RMSNorm as aten writes it, decomposed or whole: building blocks of rules.

A weight may be changed before it is used (a cast, Gemma's ``1 + weight``). This happens outside the
token stream, so the captured weight is whatever the product reads. An epsilon that is a tensor is
captured in the same way.
"""

from __future__ import annotations

import torch

from spfast.patterns.blocks import Block
from spfast.patterns.building import either
from spfast.patterns.values import Captures, Value, last_dim, ops

__all__ = ["NARROWED", "NORMS", "cast", "widened"]


def cast(x: Value, dtype: object) -> Value:
    """``x`` cast to ``dtype``, by any operator that casts."""
    return either(
        ops.prims.convert_element_type(x, dtype),
        ops.aten._to_copy(x, dtype=dtype),
        ops.aten.to.dtype(x, dtype),
    )


def widened(block: Block) -> Block:
    """The block on a value that is cast to float32 first."""
    return lambda x, c: block(cast(x, torch.float32), c)


def bare(wide: Value, c: Captures) -> Value:
    """No weight, and a result as wide as the computation."""
    square = either(ops.aten.pow.Tensor_Scalar(wide, 2), ops.aten.mul.Tensor(wide, wide))
    mean = ops.aten.mean.dim(square, last_dim, True)
    shifted = either(ops.aten.add.Tensor(mean, c.epsilon), ops.aten.add.Scalar(mean, c.epsilon))
    return ops.aten.mul.Tensor(wide, ops.aten.rsqrt(shifted))


def narrowed(wide: Value, c: Captures) -> Value:
    """No weight, cast back."""
    return cast(bare(wide, c), c.dtype)


def narrowed_then_weighted(wide: Value, c: Captures) -> Value:
    """Cast back, then weighted, as Hugging Face models do."""
    return ops.aten.mul.Tensor(c.weight, narrowed(wide, c))


def weighted(wide: Value, c: Captures) -> Value:
    """Weighted, and a result as wide as the computation."""
    return ops.aten.mul.Tensor(bare(wide, c), c.weight)


def weighted_then_narrowed(wide: Value, c: Captures) -> Value:
    """Weighted, then cast back, as torch's own decomposition and Gemma do."""
    return cast(weighted(wide, c), c.dtype)


def rms_norm(x: Value, c: Captures) -> Value:
    """The composite operator, over the last dim alone."""
    return ops.aten.rms_norm(x, [c.width], c.weight, c.epsilon)


def fused_rms_norm(x: Value, c: Captures) -> Value:
    """The fused operator, which also yields the reciprocal deviation."""
    return ops.aten._fused_rms_norm(x, [c.width], c.weight, c.epsilon)[0]


NARROWED: tuple[Block, ...] = (narrowed, narrowed_then_weighted, weighted_then_narrowed)
"""The decomposed forms of a value that is wide already, with a narrow result."""

_DECOMPOSED = (*NARROWED, bare, weighted)

NORMS: tuple[Block, ...] = (*map(widened, _DECOMPOSED), *_DECOMPOSED, rms_norm, fused_rms_norm)
"""Every form of a norm, each from the value that is normed to the result."""
