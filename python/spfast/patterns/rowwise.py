"""Which operators treat every token alone: a rule for each, for the row-wise recogniser.

An operator that is not listed may need all tokens: matmuls, attention, random numbers, and whatever
is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ATEN", "RowFamily", "RowRule"]

RowFamily = Literal[
    "pointwise", "reduce", "along", "norm", "view", "unsqueeze", "squeeze", "expand", "rows"
]


@dataclass(frozen=True)
class RowRule:
    """How one operator treats tokens.

    Attributes:
        op: the operator, such as ``"aten.add.Tensor"``.
        family: ``"pointwise"``: tensors broadcast together. ``"reduce"``: over the dims given at
            ``position``. ``"along"``: along one dim, as softmax, topk, split and cat. ``"norm"``:
            over the last dims, as many as the sizes at ``position``. ``"view"``, ``"unsqueeze"``,
            ``"squeeze"``, ``"expand"``: other sizes. ``"rows"``: the operands named by ``rows``
            have a row for each token, and so have all results; the others are the same for all.
        position: of the argument that names dims or sizes.
        default_dim: of an ``"along"`` dim that is not given.
        rows: of ``"rows"``: operands by position or keyword.
        buffers: of ``"rows"``: keywords of operands that are written to, a row for each token.
        groups: of ``"rows"``: the keyword of a list of group sizes, that of tokens first. The rule
            holds where the list is absent, or that size is -1 for all tokens. With another size an
            operand would have a number for each group of tokens.
        block: of ``"rows"``: how many tokens a block has, for a result that lies in blocks. The
            share of a rank has to be whole blocks then.
        block_if: of ``"rows"``: arguments by position or keyword that are true where the result
            lies in blocks. Where none is named, it always does.
    """

    op: str
    family: RowFamily
    position: int = 1
    default_dim: int = 0
    rows: tuple[int | str, ...] = ()
    buffers: tuple[str, ...] = ()
    groups: str = ""
    block: int = 1
    block_if: tuple[int | str, ...] = ()


_POINTWISE = """
abs.default acos.default add.Scalar add.Tensor addcdiv.default addcmul.default alias.default
asin.default atan.default atan2.default bitwise_and.Scalar bitwise_and.Tensor bitwise_not.default
bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Tensor ceil.default celu.default clamp.Tensor
clamp.default clamp_max.Tensor clamp_max.default clamp_min.Tensor clamp_min.default clone.default
copysign.Tensor cos.default cosh.default detach.default div.Scalar div.Tensor div.Scalar_mode
div.Tensor_mode elu.default eq.Scalar eq.Tensor erf.default erfc.default exp.default exp2.default
expm1.default floor.default fmod.Scalar fmod.Tensor full_like.default ge.Scalar ge.Tensor
gelu.default gt.Scalar gt.Tensor hardsigmoid.default hardswish.default hardtanh.default
isfinite.default isinf.default isnan.default le.Scalar le.Tensor leaky_relu.default lerp.Scalar
lerp.Tensor lift_fresh_copy.default log.default log10.default log1p.default log2.default
logical_and.default logical_not.default logical_or.default logical_xor.default lt.Scalar lt.Tensor
masked_fill.Scalar masked_fill.Tensor maximum.default minimum.default mish.default mul.Scalar
mul.Tensor ne.Scalar ne.Tensor neg.default ones_like.default pow.Scalar pow.Tensor_Scalar
pow.Tensor_Tensor reciprocal.default relu.default relu6.default remainder.Scalar remainder.Tensor
round.decimals round.default rsqrt.default rsub.Scalar rsub.Tensor selu.default sigmoid.default
sign.default silu.default sin.default sinh.default softplus.default sqrt.default square.default
sub.Scalar sub.Tensor tan.default tanh.default threshold.default trunc.default where.ScalarOther
where.ScalarSelf where.self zeros_like.default _to_copy.default
""".split()

# These reduce over the dims at position 1. Without dims they reduce everything: they need all
# tokens then.
_REDUCE = """
all.dim amax.default amin.default any.dim argmax.default argmin.default logsumexp.default max.dim
mean.dim min.dim prod.dim_int std.correction sum.dim_IntList var.correction var_mean.correction
""".split()

_ALONG = (
    ("_softmax.default", 1, 0),
    ("_log_softmax.default", 1, 0),
    ("softmax.int", 1, 0),
    ("log_softmax.int", 1, 0),
    ("cumsum.default", 1, 0),
    ("cumprod.default", 1, 0),
    ("flip.default", 1, 0),
    ("sort.default", 1, -1),
    ("topk.default", 2, -1),
    ("gather.default", 1, 0),
    ("scatter.src", 1, 0),
    ("scatter.value", 1, 0),
    ("scatter_add.default", 1, 0),
    ("slice.Tensor", 1, 0),
    ("select.int", 1, 0),
    ("split.Tensor", 2, 0),
    ("split_with_sizes.default", 2, 0),
    ("unbind.int", 1, 0),
    ("cat.default", 1, 0),
    ("glu.default", 1, -1),
)

_NORM = """
native_layer_norm.default layer_norm.default rms_norm.default _fused_rms_norm.default
""".split()

ATEN: tuple[RowRule, ...] = (
    *(RowRule(f"aten.{name}", "pointwise") for name in _POINTWISE),
    RowRule("prims.convert_element_type.default", "pointwise"),
    *(RowRule(f"aten.{name}", "reduce") for name in _REDUCE),
    *(RowRule(f"aten.{name}", "along", position, dim) for name, position, dim in _ALONG),
    *(RowRule(f"aten.{name}", "norm") for name in _NORM),
    *(
        RowRule(f"aten.{name}", "view")
        for name in ("view.default", "reshape.default", "_unsafe_view.default")
    ),
    RowRule("aten.unsqueeze.default", "unsqueeze"),
    RowRule("aten.squeeze.dim", "squeeze"),
    RowRule("aten.expand.default", "expand"),
)
