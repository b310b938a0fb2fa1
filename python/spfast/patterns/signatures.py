"""The arguments of the operators that patterns are mostly written with.

A pattern needs no operator to exist in its process, so what torch knows about arguments cannot be
asked. For the operators listed here a pattern may name an argument or give it by position, and an
argument that it leaves out is absent in the graph or has its default. Any other operator is matched
with its arguments as the pattern function writes them.
"""

from __future__ import annotations

import ast
import functools
from typing import Any, NamedTuple

__all__ = ["COMMUTATIVE", "SchemaArgument", "signature_of"]

# No graph has the operands of a scalar form in the other order. The scalar forms are listed because
# one operation may have them beside tensor forms, and commutes only if all its forms do.
COMMUTATIVE = frozenset(
    {
        "aten.add.Scalar",
        "aten.add.Tensor",
        "aten.maximum.default",
        "aten.minimum.default",
        "aten.mul.Scalar",
        "aten.mul.Tensor",
    }
)

_NORM = "weight, epsilon, variance_size=None"

_SIGNATURES = {
    "aten._fused_rms_norm.default": "input, normalized_shape, weight, eps",
    "aten._to_copy.default": "self, *, dtype=None, layout=None, device=None, pin_memory=None, "
    "non_blocking=False, memory_format=None",
    "aten.add.Scalar": "self, other, alpha=1",
    "aten.add.Tensor": "self, other, *, alpha=1",
    "aten.clamp.default": "self, min=None, max=None",
    "aten.clamp_max.default": "self, max",
    "aten.clamp_min.default": "self, min",
    "aten.div.Tensor": "self, other",
    "aten.maximum.default": "self, other",
    "aten.mean.dim": "self, dim, keepdim=False, *, dtype=None",
    "aten.minimum.default": "self, other",
    "aten.mul.Scalar": "self, other",
    "aten.mul.Tensor": "self, other",
    "aten.pow.Tensor_Scalar": "self, exponent",
    "aten.reciprocal.default": "self",
    "aten.rms_norm.default": "input, normalized_shape, weight=None, eps=None",
    "aten.rsqrt.default": "self",
    "aten.sqrt.default": "self",
    "aten.sub.Tensor": "self, other, *, alpha=1",
    "aten.to.dtype": "self, dtype, non_blocking=False, copy=False, memory_format=None",
    "prims.convert_element_type.default": "a, dtype",
    "vllm_ir.fused_add_rms_norm.default": f"x, x_residual, {_NORM}",
    "vllm_ir.fused_add_rms_norm.maybe_inplace": f"x, x_residual, {_NORM}",
    "vllm_ir.rms_norm.default": f"x, {_NORM}",
}


class SchemaArgument(NamedTuple):
    """One argument of an operator; ``position`` is -1 for one that is always named."""

    name: str
    position: int
    required: bool
    default: Any


@functools.cache
def signature_of(target: str) -> tuple[SchemaArgument, ...] | None:
    """The arguments of the operator called ``target``, or ``None`` if they are not known here."""
    text = _SIGNATURES.get(target)
    if text is None:
        return None
    parsed = ast.parse(f"lambda {text}: 0", mode="eval").body
    assert isinstance(parsed, ast.Lambda)
    arguments = parsed.args
    first_default = len(arguments.args) - len(arguments.defaults)
    known = [
        SchemaArgument(each.arg, i, i < first_default, None)
        if i < first_default
        else SchemaArgument(
            each.arg, i, False, ast.literal_eval(arguments.defaults[i - first_default])
        )
        for i, each in enumerate(arguments.args)
    ]
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        value = None if default is None else ast.literal_eval(default)
        known.append(SchemaArgument(each.arg, -1, default is None, value))
    return tuple(known)
