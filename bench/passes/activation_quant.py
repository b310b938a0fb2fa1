"""silu_and_mul, and attention, each with a quantisation; buffers are made inside the pattern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized

from .fusion import GROUP_SIZE, HIDDEN, INTER, TP, Fusion, Rule, empty
from .norm_quant import quant_per_group, quant_static
from .ops import BF16, F32, FP8, declare

ops, aten, prims = declare(), torch.ops.aten, torch.ops.prims
WIDTH = INTER // TP
HEADS, HEAD_SIZE = 32, 128


def silu_and_mul(x: Any) -> Any:
    """The gated activation, with its own buffer."""
    result = torch.empty([x.shape[0], x.shape[1] // 2], dtype=x.dtype, device=x.device)
    return auto_functionalized(ops.silu_and_mul.default, result=result, input=x)[1]


class SiluMulStaticQuant:
    """silu_and_mul -> static fp8 quantisation."""

    def pattern(self, input: Any, scale: Any) -> Any:
        active = silu_and_mul(input)
        return quant_static(torch.empty_like(active, dtype=FP8), active, scale)

    def replacement(self, input: Any, scale: Any) -> Any:
        result = torch.empty([input.shape[0], input.shape[1] // 2], dtype=FP8, device=input.device)
        return auto_functionalized(
            ops.silu_and_mul_static_quant.default, result=result, input=input, scale=scale
        )[1]

    def inputs(self) -> list[Any]:
        return [empty(5, 8), empty(1, 1, dtype=F32)]


class SiluMulGroupQuant:
    """silu_and_mul -> fp8 quantisation with a scale for each group."""

    def pattern(self, input: Any) -> Any:
        active = silu_and_mul(input)
        result = torch.empty_like(active, dtype=FP8)
        groups = [active.shape[0], active.shape[1] // GROUP_SIZE]
        return quant_per_group(result, active, torch.empty(groups, dtype=F32))

    def replacement(self, input: Any) -> Any:
        rows, width = input.shape[0], input.shape[1] // 2
        result = torch.empty([rows, width], dtype=FP8, device=input.device)
        scale = torch.empty([rows, width // GROUP_SIZE], dtype=F32, device=input.device)
        done = auto_functionalized(
            ops.silu_and_mul_per_group_quant.default,
            result=result,
            scale=scale,
            input=input,
            group_size=GROUP_SIZE,
        )
        return done[1], done[2]

    def inputs(self) -> list[Any]:
        return [empty(5, 4 * GROUP_SIZE)]


def _silu_rules(kind: Any) -> Any:
    def rules(layers: int) -> Iterator[Rule]:
        quant = kind()
        yield Rule(quant.pattern, quant.replacement, quant.inputs)

    return rules


def _silu_layer(grouped: bool) -> Any:
    def layer(rows: Any, x: Any, up: Any, down: Any, scale: Any) -> Any:
        active = silu_and_mul(aten.mm(x, up))
        result = torch.empty_like(active, dtype=FP8)
        if grouped:
            scales = torch.empty([active.shape[0], active.shape[1] // GROUP_SIZE], dtype=F32)
            quantised, scales = quant_per_group(result, active, scales)
            scales = aten.sum(scales, [1], True)
        else:
            quantised, scales = quant_static(result, active, scale), scale
        wide = aten.mul(prims.convert_element_type(quantised, F32), scales)
        return aten.mm(prims.convert_element_type(wide, BF16), down)

    return layer


# --- attention -----------------------------------------------------------------------------------


class AttentionStaticQuant:
    """attention -> reshape -> static fp8 quantisation, once for each layer by its name."""

    def __init__(self, layer_name: str) -> None:
        self.layer_name = layer_name

    def pattern(self, q: Any, k: Any, v: Any, output: Any, scale: Any) -> Any:
        done = auto_functionalized(
            ops.attention.default,
            query=q,
            key=k,
            value=v,
            output=output,
            layer_name=self.layer_name,
            output_scale=None,
        )
        flat = aten.reshape.default(done[1], [q.shape[0], HEADS * HEAD_SIZE])
        result = torch.empty(flat.shape, dtype=FP8, device=q.device)
        return quant_static(result, flat, scale)

    def replacement(self, q: Any, k: Any, v: Any, output: Any, scale: Any) -> Any:
        # The output buffer is made anew in the quantised dtype.
        result = torch.empty([q.shape[0], HEADS, HEAD_SIZE], dtype=FP8, device=q.device)
        done = auto_functionalized(
            ops.attention.default,
            query=q,
            key=k,
            value=v,
            output=result,
            layer_name=self.layer_name,
            output_scale=scale,
        )
        return aten.reshape.default(done[1], [-1, HEADS * HEAD_SIZE])

    def inputs(self) -> list[Any]:
        heads = [empty(5, HEADS, HEAD_SIZE) for _ in range(4)]
        return [*heads, empty(1, 1, dtype=F32)]


def _attention_rules(layers: int) -> Iterator[Rule]:
    for index in range(layers):
        quant = AttentionStaticQuant(f"layers.{index}.attn")
        yield Rule(quant.pattern, quant.replacement, quant.inputs)


def _attention_layer(rows: Any, x: Any, wq: Any, wk: Any, wv: Any, down: Any, scale: Any) -> Any:
    q, k, v = (aten.view(aten.mm(x, w), [x.shape[0], HEADS, HEAD_SIZE]) for w in (wq, wk, wv))
    output = torch.empty([rows, HEADS, HEAD_SIZE], dtype=BF16)
    quant = AttentionStaticQuant("layers.0.attn")
    quantised = quant.pattern(q, k, v, output, scale)
    return aten.mm(prims.convert_element_type(quantised, BF16), down)


_SQUARE = ((HIDDEN, HIDDEN), BF16)
_SILU = (((HIDDEN, 2 * WIDTH), BF16), ((WIDTH, HIDDEN), BF16), ((1, 1), F32))

FUSIONS = (
    Fusion(
        "silu_mul + static fp8 quant", _silu_rules(SiluMulStaticQuant), _silu_layer(False), _SILU
    ),
    Fusion(
        "silu_mul + per-group fp8 quant", _silu_rules(SiluMulGroupQuant), _silu_layer(True), _SILU
    ),
    Fusion(
        "attention + static fp8 quant",
        _attention_rules,
        _attention_layer,
        (_SQUARE, _SQUARE, _SQUARE, _SQUARE, ((1, 1), F32)),
    ),
)
