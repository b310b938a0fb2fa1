"""rms_norm (with or without the residual's addition) followed by a quantisation to fp8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized

from .fusion import EPSILONS, GROUP_SIZE, HIDDEN, Fusion, Rule, empty
from .ops import BF16, F32, FP8, declare

ops = declare()
LIMIT = torch.finfo(FP8).max


class Norm:
    """Either norm: what it is called with, and what it gives."""

    def __init__(self, epsilon: float, added: bool) -> None:
        self.epsilon, self.added = epsilon, added

    def __call__(self, result: Any, x: Any, residual: Any, weight: Any) -> tuple[Any, Any]:
        """(normed, new residual)."""
        if not self.added:
            done = auto_functionalized(
                ops.rms_norm.default, result=result, input=x, weight=weight, epsilon=self.epsilon
            )
            return done[1], residual
        done = auto_functionalized(
            ops.fused_add_rms_norm.default,
            input=x,
            residual=residual,
            weight=weight,
            epsilon=self.epsilon,
        )
        return done[1], done[2]


# --- the rules, one class a kind of quantisation, as vLLM has them -------------------------------


class StaticQuant:
    """Quantisation with one scale that is known beforehand."""

    def __init__(self, epsilon: float) -> None:
        self.norm, self.added_norm = Norm(epsilon, False), Norm(epsilon, True)
        self.epsilon = epsilon

    def quantise(self, result: Any, x: Any, scale: Any) -> Any:
        return quant_static(result, x, scale)

    def pattern(self, result: Any, result_rms: Any, input: Any, weight: Any, scale: Any) -> Any:
        normed, _ = self.norm(result_rms, input, None, weight)
        return self.quantise(result, normed, scale)

    def replacement(self, result: Any, result_rms: Any, input: Any, weight: Any, scale: Any) -> Any:
        return auto_functionalized(
            ops.rms_norm_static_quant.default,
            result=result,
            input=input,
            weight=weight,
            scale=scale,
            epsilon=self.epsilon,
        )[1]

    def added_pattern(self, result: Any, input: Any, residual: Any, weight: Any, scale: Any) -> Any:
        normed, residual = self.added_norm(None, input, residual, weight)
        return self.quantise(result, normed, scale), residual

    def added_replacement(
        self, result: Any, input: Any, residual: Any, weight: Any, scale: Any
    ) -> Any:
        done = auto_functionalized(
            ops.fused_add_rms_norm_static_quant.default,
            result=result,
            input=input,
            residual=residual,
            weight=weight,
            scale=scale,
            epsilon=self.epsilon,
        )
        return done[1], done[2]

    def inputs(self) -> list[Any]:
        return [empty(5, 4, dtype=FP8), empty(5, 4), empty(5, 4), empty(4), empty(1, 1, dtype=F32)]


class PerTokenQuant(StaticQuant):
    """Quantisation with one scale a token, computed on the way."""

    def quantise(self, result: Any, x: Any, scale: Any) -> Any:
        return quant_per_token(result, x, scale)

    def replacement(self, result: Any, result_rms: Any, input: Any, weight: Any, scale: Any) -> Any:
        done = self.fused(result, input, weight, scale, None)
        return done[1], done[2]

    def added_pattern(self, result: Any, input: Any, residual: Any, weight: Any, scale: Any) -> Any:
        normed, residual = self.added_norm(None, input, residual, weight)
        quantised, scale = self.quantise(result, normed, scale)
        return quantised, residual, scale

    def added_replacement(
        self, result: Any, input: Any, residual: Any, weight: Any, scale: Any
    ) -> Any:
        done = self.fused(result, input, weight, scale, residual)
        return done[1], done[3], done[2]

    def fused(self, result: Any, input: Any, weight: Any, scale: Any, residual: Any) -> Any:
        return auto_functionalized(
            ops.rms_norm_per_token_quant.default,
            result=result,
            input=input,
            weight=weight,
            scale=scale,
            epsilon=self.epsilon,
            scale_ub=None,
            residual=residual,
        )


class PerGroupQuant(PerTokenQuant):
    """Quantisation with one scale for each token and group of features."""

    def quantise(self, result: Any, x: Any, scale: Any) -> Any:
        return quant_per_group(result, x, scale)

    def fused(self, result: Any, input: Any, weight: Any, scale: Any, residual: Any) -> Any:
        return auto_functionalized(
            ops.rms_norm_per_group_quant.default,
            result=result,
            input=input,
            weight=weight,
            scale=scale,
            epsilon=self.epsilon,
            scale_ub=None,
            residual=residual,
            group_size=GROUP_SIZE,
        )


def quant_static(result: Any, x: Any, scale: Any) -> Any:
    """Quantised."""
    return auto_functionalized(ops.static_quant.default, result=result, input=x, scale=scale)[1]


def quant_per_token(result: Any, x: Any, scale: Any) -> tuple[Any, Any]:
    """Quantised, and the scales."""
    done = auto_functionalized(
        ops.per_token_quant.default, result=result, input=x, scale=scale, scale_ub=None
    )
    return done[1], done[2]


def quant_per_group(result: Any, x: Any, scale: Any) -> tuple[Any, Any]:
    """Quantised, and the scales."""
    done = auto_functionalized(
        ops.per_group_quant.default,
        input=x,
        output_q=result,
        output_s=scale,
        group_size=GROUP_SIZE,
        eps=1e-10,
        fp8_min=-LIMIT,
        fp8_max=LIMIT,
    )
    return done[1], done[2]


# --- the layers ----------------------------------------------------------------------------------


def _layer(quant: str, added: bool) -> Any:
    def layer(rows: Any, x: Any, weight: Any, up: Any, scale: Any) -> Any:
        norm = Norm(EPSILONS[0], added)
        half = torch.ops.aten.relu(x)
        if added:
            normed, residual = norm(None, half, x, weight)
        else:
            buffer = torch.empty([rows, HIDDEN], dtype=BF16)
            normed, residual = norm(buffer, half, x, weight)
        result = torch.empty([rows, HIDDEN], dtype=FP8)
        scales = scale
        if quant == "static":
            quantised = quant_static(result, normed, scale)
        elif quant == "token":
            scales = torch.empty([rows, 1], dtype=F32)
            quantised, scales = quant_per_token(result, normed, scales)
        else:
            scales = torch.empty([rows, HIDDEN // GROUP_SIZE], dtype=F32)
            quantised, scales = quant_per_group(result, normed, scales)
        wide = torch.ops.prims.convert_element_type(quantised, BF16)
        out = torch.ops.aten.mm(wide, up)
        if quant != "static":
            out = torch.ops.aten.mul(out, torch.ops.aten.sum(scales, [1], True))
            out = torch.ops.prims.convert_element_type(out, BF16)
        return torch.ops.aten.add(out, residual)

    return layer


def _rules(kind: type[StaticQuant], added: bool) -> Any:
    def rules(layers: int) -> Iterator[Rule]:
        for epsilon in EPSILONS:
            quant = kind(epsilon)
            if added:
                yield Rule(quant.added_pattern, quant.added_replacement, quant.inputs)
            else:
                yield Rule(quant.pattern, quant.replacement, quant.inputs)

    return rules


_KINDS = {
    "static fp8 quant": (StaticQuant, "static"),
    "per-token fp8 quant": (PerTokenQuant, "token"),
    "per-group fp8 quant": (PerGroupQuant, "group"),
}
_WEIGHTS = (((HIDDEN,), BF16), ((HIDDEN, HIDDEN), BF16), ((1, 1), F32))

FUSIONS = tuple(
    Fusion(f"{norm} + {name}", _rules(kind, added), _layer(quant, added), _WEIGHTS)
    for norm, added in (("rms_norm", False), ("fused_add_rms_norm", True))
    for name, (kind, quant) in _KINDS.items()
)
