"""Two sites of a layer in vLLM's dialect, each followed by one of its quantisations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.auto_functionalize import auto_functionalized, auto_functionalized_v2

from spfast.testing import ops
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
cast = torch.ops.prims.convert_element_type.default
FP8 = torch.float8_e4m3fn
WIDTH, GROUP = 256, 64
Quantise = Callable[[GraphBuilder, fx.Node, fx.Node], list[fx.Node]]


def empty(build: GraphBuilder, sizes: list[Any], dtype: torch.dtype) -> fx.Node:
    device = torch.device("cpu")
    return build.call(aten.empty.memory_format, sizes, dtype=dtype, device=device, pin_memory=False)


def rows_of(build: GraphBuilder, x: fx.Node) -> Any:
    """The number of tokens: where it is symbolic, the graph is given it."""
    rows = x.meta["val"].shape[0]
    first = next(iter(build.graph.nodes))
    return rows if isinstance(rows, int) else first


def written(
    op: Any, version: int, buffers: dict[str, tuple[int, torch.dtype]], **literals: Any
) -> Quantise:
    """An operator that writes to ``buffers`` (width, dtype), functionalised."""

    def quantise(build: GraphBuilder, x: fx.Node, scale: fx.Node) -> list[fx.Node]:
        rows = rows_of(build, x)
        made = {name: empty(build, [rows, *spec[:-1]], spec[-1]) for name, spec in buffers.items()}
        given = {name: scale if value == "scale" else value for name, value in literals.items()}
        if version == 1:
            call = build.call(auto_functionalized, op, input=x, **made, **given)
        else:
            absent = {n: v for n, v in given.items() if n in _OPTIONAL}
            places = {f"_{name}_base_index": place for place, name in enumerate(made)}
            places |= {f"_{name}_base_index": None for name in absent}
            kept = {name: value for name, value in given.items() if name not in absent}
            call = build.call(
                auto_functionalized_v2,
                op,
                input=x,
                **kept,
                **places,
                _all_bases=list(made.values()),
            )
        return [build.call(operator.getitem, call, 1 + place) for place in range(len(made))]

    return quantise


_OPTIONAL = ("azp",)


def fp4_plain(swizzled: bool) -> Quantise:
    def quantise(build: GraphBuilder, x: fx.Node, scale: fx.Node) -> list[fx.Node]:
        both = build.call(torch.ops._C.scaled_fp4_quant.default, x, scale, swizzled)
        return [build.call(operator.getitem, both, place) for place in (0, 1)]

    return quantise


def native_per_token(build: GraphBuilder, x: fx.Node, scale: fx.Node) -> list[fx.Node]:
    """As vLLM's QuantFP8 writes it in plain torch."""
    most = build.call(aten.amax.default, build.call(aten.abs.default, x), [-1])
    wide = build.call(cast, build.call(aten.unsqueeze.default, most, -1), torch.float32)
    scales = build.call(
        aten.clamp_min.default, build.call(aten.div.Tensor, wide, 448.0), 1 / (448.0 * 512.0)
    )
    scaled = build.call(
        aten.mul.Tensor,
        build.call(cast, x, torch.float32),
        build.call(aten.reciprocal.default, scales),
    )
    clamped = build.call(
        aten.clamp_max.default, build.call(aten.clamp_min.default, scaled, -448.0), 448.0
    )
    return [build.call(cast, clamped, FP8), scales]


def native_per_group(build: GraphBuilder, x: fx.Node, scale: fx.Node) -> list[fx.Node]:
    rows = rows_of(build, x)
    groups = build.call(aten.reshape.default, x, [rows, WIDTH // GROUP, GROUP])
    both = build.call(aten.max.dim, build.call(aten.abs.default, groups), -1, True)
    most = build.call(cast, build.call(operator.getitem, both, 0), torch.float32)
    scales = build.call(
        aten.clamp_min.default, build.call(aten.div.Tensor, most, 448.0), 1 / (448.0 * 512.0)
    )
    scaled = build.call(aten.div.Tensor, groups, scales)
    clamped = build.call(aten.clamp.default, scaled, -448.0, 448.0)
    flat = build.call(aten.reshape.default, build.call(cast, clamped, FP8), [rows, WIDTH])
    return [flat, build.call(aten.squeeze.dim, scales, -1)]


def per_tensor(build: GraphBuilder, x: fx.Node, scale: fx.Node) -> list[fx.Node]:
    """One scale of all tokens, which no rank knows alone."""
    result = empty(build, [rows_of(build, x), WIDTH], FP8)
    one = empty(build, [1], torch.float32)
    op = torch.ops._C.dynamic_scaled_fp8_quant.default
    call = build.call(auto_functionalized, op, input=x, result=result, scale=one)
    return [build.call(operator.getitem, call, place) for place in (1, 2)]


def column_major(build: GraphBuilder, x: fx.Node, scale: fx.Node) -> list[fx.Node]:
    """Float8 per group, with scales that lie column by column."""
    rows = rows_of(build, x)
    result = empty(build, [rows, WIDTH], FP8)
    columns = empty(build, [WIDTH // GROUP, rows], torch.float32)
    call = build.call(
        auto_functionalized,
        torch.ops._C.per_token_group_fp8_quant.default,
        input=x,
        output_q=result,
        output_s=build.call(aten.permute.default, columns, [1, 0]),
        group_size=GROUP,
        eps=1e-10,
        fp8_min=-448.0,
        fp8_max=448.0,
        scale_ue8m0=False,
        dummy_is_scale_transposed=True,
        dummy_is_tma_aligned=False,
    )
    return [build.call(operator.getitem, call, place) for place in (1, 2)]


def static(group: list[int] | None, scale: int) -> Quantise:
    """Static float8: ``scale`` numbers, each of a group of tokens and features."""

    def quantise(build: GraphBuilder, x: fx.Node, one: fx.Node) -> list[fx.Node]:
        result = empty(build, [rows_of(build, x), WIDTH], FP8)
        op = torch.ops._C.static_scaled_fp8_quant.default
        scales = build.call(aten.expand.default, one, [scale])
        call = build.call(
            auto_functionalized, op, input=x, result=result, scale=scales, group_shape=group
        )
        return [build.call(operator.getitem, call, 1)]

    return quantise


ops.declare()
C = torch.ops._C
_GROUPS = WIDTH // GROUP
_FP8_RANGE = {"fp8_min": -448.0, "fp8_max": 448.0, "scale_ue8m0": False}
_AS_GROUPS = {"group_size": GROUP, "eps": 1e-10}
_FP4 = {"output": (WIDTH // 2, torch.uint8), "output_scale": (WIDTH // 16, torch.uint8)}
_FP4_SWIZZLED = {**_FP4, "output_scale": (WIDTH // 16 // 4, torch.int32)}

PER_TOKEN: dict[str, Quantise] = {
    "native per token": native_per_token,
    "native per group": native_per_group,
    "plain NVFP4": fp4_plain(False),
}
SWIZZLED: dict[str, Quantise] = {"plain": fp4_plain(True)}
for _v in (1, 2):
    PER_TOKEN |= {
        f"fp8 per token, v{_v}": written(
            C.dynamic_per_token_scaled_fp8_quant.default,
            _v,
            {"result": (WIDTH, FP8), "scale": (1, torch.float32)},
            scale_ub=None,
        ),
        f"fp8 per group, v{_v}": written(
            C.per_token_group_fp8_quant.default,
            _v,
            {"output_q": (WIDTH, FP8), "output_s": (_GROUPS, torch.float32)},
            **_AS_GROUPS,
            **_FP8_RANGE,
            dummy_is_scale_transposed=False,
            dummy_is_tma_aligned=False,
        ),
        f"int8 per token, v{_v}": written(
            C.dynamic_scaled_int8_quant.default,
            _v,
            {"result": (WIDTH, torch.int8), "scale": (1, torch.float32)},
            azp=None,
        ),
        f"int8 per token and its zero, v{_v}": written(
            C.dynamic_scaled_int8_quant.default,
            _v,
            {
                "result": (WIDTH, torch.int8),
                "scale": (1, torch.float32),
                "azp": (1, torch.int32),
            },
        ),
        f"int8 per group, v{_v}": written(
            C.per_token_group_quant_int8.default,
            _v,
            {"output_q": (WIDTH, torch.int8), "output_s": (_GROUPS, torch.float32)},
            **_AS_GROUPS,
            int8_min=-128.0,
            int8_max=127.0,
        ),
        f"NVFP4 as it is, v{_v}": written(
            C.scaled_fp4_quant.out, _v, _FP4, input_scale="scale", is_sf_swizzled_layout=False
        ),
    }
    SWIZZLED[f"out, v{_v}"] = written(
        C.scaled_fp4_quant.out, _v, _FP4_SWIZZLED, input_scale="scale", is_sf_swizzled_layout=True
    )


def layer(quantise: Quantise, tokens: int, dynamic: bool = False) -> GraphBuilder:
    """First and Middle: x -> all_reduce -> norm -> quantise, and y added to what x became."""
    build = GraphBuilder(tokens, dynamic)
    shape = (TOKENS if dynamic else tokens, WIDTH)
    if dynamic:
        build.placeholder("tokens", (), torch.int64, "size")
    x = build.placeholder("x", shape, torch.bfloat16, "per_rank")
    y = build.placeholder("y", shape, torch.bfloat16, "per_rank")
    weight = build.placeholder("weight", (WIDTH,), torch.bfloat16, "gain")
    scale = build.placeholder("scale", (1,), torch.float32, "constant", 300.0)
    first = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, first, weight, 1e-6)
    outputs = quantise(build, normed, scale)
    second = build.call(torch.ops.vllm.all_reduce.default, y, "tp:0")
    both = build.call(torch.ops.vllm_ir.fused_add_rms_norm.default, second, first, weight, 1e-6)
    outputs += quantise(build, build.call(operator.getitem, both, 0), scale)
    build.output(outputs)
    return build
