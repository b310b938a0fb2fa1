"""Collectives fused with the norm, or the matmul, next to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized

from .fusion import EPSILONS, HIDDEN, TP, TP_GROUP, Fusion, Rule, empty
from .norm_quant import Norm, quant_static
from .ops import BF16, F32, FP8, declare

ops, aten, prims = declare(), torch.ops.aten, torch.ops.prims
MAX_TOKENS = 16384


class AllReduceNorm:
    """all_reduce -> rms_norm, all_reduce -> fused_add_rms_norm, and the latter -> static quant."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon
        self.norm, self.added = Norm(epsilon, False), Norm(epsilon, True)

    def fused(self, x: Any, residual: Any, norm_out: Any, weight: Any, **quant: Any) -> Any:
        return auto_functionalized(
            ops.fused_all_reduce_norm.default,
            allreduce_in=x,
            residual=residual,
            norm_out=norm_out,
            quant_out=quant.get("quant_out"),
            scale=quant.get("scale"),
            weight=weight,
            epsilon=self.epsilon,
            world_size=TP,
            max_token_num=MAX_TOKENS,
        )

    def pattern(self, input: Any, rms_result: Any, weight: Any) -> Any:
        reduced = ops.all_reduce.default(input, TP_GROUP)
        return self.norm(rms_result, reduced, None, weight)[0], reduced

    def replacement(self, input: Any, rms_result: Any, weight: Any) -> Any:
        done = self.fused(input, torch.zeros_like(input), rms_result, weight)
        return done[2], done[1]

    def added_pattern(self, residual: Any, input: Any, weight: Any) -> Any:
        reduced = ops.all_reduce.default(input, TP_GROUP)
        return self.added(None, reduced, residual, weight)

    def added_replacement(self, residual: Any, input: Any, weight: Any) -> Any:
        done = self.fused(input, residual, torch.empty_like(input), weight)
        return done[2], done[1]

    def quant_pattern(
        self, residual: Any, input: Any, weight: Any, quant_result: Any, scale: Any
    ) -> Any:
        normed, residual = self.added_pattern(residual, input, weight)
        return quant_static(quant_result, normed, scale), residual

    def quant_replacement(
        self, residual: Any, input: Any, weight: Any, quant_result: Any, scale: Any
    ) -> Any:
        norm_out = torch.empty_like(input)
        done = self.fused(input, residual, norm_out, weight, quant_out=quant_result, scale=scale)
        return done[3], done[1]

    def inputs(self) -> list[Any]:
        return [empty(5, 4), empty(5, 4), empty(4)]

    def added_inputs(self) -> list[Any]:
        return [empty(5, 4), empty(5, 4), empty(4)]

    def quant_inputs(self) -> list[Any]:
        quant = empty(5, 4, dtype=FP8), empty(1, 1, dtype=F32)
        return [empty(5, 4), empty(5, 4), empty(4), *quant]


def fits(match: Any) -> bool:
    """What users' checks look like: the fused kernel has a limit on its input."""
    x = match.kwargs["input"].meta["val"]
    return x.dim() == 2 and x.dtype == BF16 and x.shape[1] % 16 == 0


def _rules(kind: str) -> Any:
    def rules(layers: int) -> Iterator[Rule]:
        for epsilon in EPSILONS:
            fused = AllReduceNorm(epsilon)
            parts = (
                getattr(fused, f"{kind}{part}") for part in ("pattern", "replacement", "inputs")
            )
            yield Rule(*parts, extra_check=fits)

    return rules


def _norm_layer(kind: str) -> Any:
    fused = AllReduceNorm(EPSILONS[0])

    def layer(rows: Any, x: Any, weight: Any, up: Any, scale: Any) -> Any:
        partial = aten.relu(aten.mm(x, up))
        if kind == "":
            buffer = torch.empty([rows, HIDDEN], dtype=BF16)
            normed, residual = fused.pattern(partial, buffer, weight)
        elif kind == "added_":
            normed, residual = fused.added_pattern(x, partial, weight)
        else:
            result = torch.empty([rows, HIDDEN], dtype=FP8)
            quantised, residual = fused.quant_pattern(x, partial, weight, result, scale)
            normed = prims.convert_element_type(quantised, BF16)
        return aten.add(aten.neg(normed), residual)

    return layer


# --- matmuls -------------------------------------------------------------------------------------


def _matmul_rules(layers: int) -> Iterator[Rule]:
    def pattern(a: Any, b: Any) -> Any:
        return ops.reduce_scatter.default(aten.mm.default(a, b), 0, TP, TP_GROUP)

    def replacement(a: Any, b: Any) -> Any:
        return ops.matmul_reduce_scatter.default(a, b, 0, TP, TP_GROUP)

    yield Rule(pattern, replacement, lambda: [empty(16, 4), empty(4, 4)])


def _gather_rules(layers: int) -> Iterator[Rule]:
    def pattern(x: Any, weight: Any) -> Any:
        return aten.mm.default(ops.all_gather.default(x, 0, TP, TP_GROUP), weight)

    def replacement(x: Any, weight: Any) -> Any:
        return ops.all_gather_matmul.default(x, weight, 0, TP, TP_GROUP)[1]

    yield Rule(pattern, replacement, lambda: [empty(4, 4), empty(4, 4)])


def _scaled_gather_rules(layers: int) -> Iterator[Rule]:
    def pattern(x: Any, weight: Any, scale_a: Any, scale_b: Any) -> Any:
        gathered = ops.all_gather.default(x, 0, TP, TP_GROUP)
        return aten._scaled_mm.default(
            gathered, weight, scale_a=scale_a, scale_b=scale_b, out_dtype=BF16
        )

    def replacement(x: Any, weight: Any, scale_a: Any, scale_b: Any) -> Any:
        return ops.all_gather_scaled_matmul.default(x, weight, scale_a, scale_b, 0, TP, TP_GROUP)[1]

    def inputs() -> list[Any]:
        weight = empty(16, 16, dtype=FP8).t()
        return [empty(2, 16, dtype=FP8), weight, empty(1, 1, dtype=F32), empty(1, 1, dtype=F32)]

    yield Rule(pattern, replacement, inputs)


# Here the stream is a rank's own rows: gathered before the matmul, scattered after it.


def _scatter_layer(rows: Any, x: Any, up: Any, down: Any, scale: Any) -> Any:
    whole = aten.relu(ops.all_gather.default(x, 0, TP, TP_GROUP))
    return ops.reduce_scatter.default(aten.mm(whole, up), 0, TP, TP_GROUP)


def _gather_layer(rows: Any, x: Any, up: Any, down: Any, scale: Any) -> Any:
    out = aten.mm(ops.all_gather.default(x, 0, TP, TP_GROUP), up)
    return ops.reduce_scatter.default(aten.relu(out), 0, TP, TP_GROUP)


def _scaled_gather_layer(rows: Any, x: Any, up: Any, down: Any, scale: Any) -> Any:
    out = aten._scaled_mm.default(
        ops.all_gather.default(prims.convert_element_type(x, FP8), 0, TP, TP_GROUP),
        aten.permute(down, [1, 0]),
        scale_a=scale,
        scale_b=scale,
        out_dtype=BF16,
    )
    return ops.reduce_scatter.default(aten.relu(out), 0, TP, TP_GROUP)


_WEIGHTS = (((HIDDEN,), BF16), ((HIDDEN, HIDDEN), BF16), ((1, 1), F32))
_MATMUL = (((HIDDEN, HIDDEN), BF16), ((HIDDEN, HIDDEN), FP8), ((1, 1), F32))

FUSIONS = (
    Fusion("all_reduce + rms_norm", _rules(""), _norm_layer(""), _WEIGHTS),
    Fusion("all_reduce + fused_add_rms_norm", _rules("added_"), _norm_layer("added_"), _WEIGHTS),
    Fusion(
        "all_reduce + fused_add_rms_norm + static fp8 quant",
        _rules("quant_"),
        _norm_layer("quant_"),
        _WEIGHTS,
    ),
    Fusion("GEMM + reduce_scatter", _matmul_rules, _scatter_layer, _MATMUL),
    Fusion("all_gather + GEMM", _gather_rules, _gather_layer, _MATMUL),
    Fusion("all_gather + scaled GEMM", _scaled_gather_rules, _scaled_gather_layer, _MATMUL),
)
