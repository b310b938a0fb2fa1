"""The ops that the passes search for and put in: vLLM's schemas, in a namespace of their own.

Only their shapes matter here: nothing is ever run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "spfast_bench"
BF16, F32, FP8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn

_NORM = "Tensor input, Tensor weight"
_ROPE = "Tensor positions, Tensor(a!) query, Tensor(b!) key, int head_size, Tensor cos_sin_cache"
_MUTATING = (
    f"rms_norm(Tensor(a!) result, {_NORM}, float epsilon) -> ()",
    "fused_add_rms_norm(Tensor(a!) input, Tensor(b!) residual, Tensor weight, float epsilon) -> ()",
    "static_quant(Tensor(a!) result, Tensor input, Tensor scale) -> ()",
    "per_token_quant(Tensor(a!) result, Tensor input, Tensor(b!) scale, Tensor? scale_ub) -> ()",
    "per_group_quant(Tensor input, Tensor(a!) output_q, Tensor(b!) output_s, int group_size, "
    "float eps, float fp8_min, float fp8_max) -> ()",
    "silu_and_mul(Tensor(a!) result, Tensor input) -> ()",
    f"rotary_embedding({_ROPE}, bool is_neox) -> ()",
    "attention(Tensor query, Tensor key, Tensor value, Tensor(a!) output, str layer_name, "
    "Tensor? output_scale) -> ()",
    f"rms_norm_static_quant(Tensor(a!) result, {_NORM}, Tensor scale, float epsilon) -> ()",
    f"fused_add_rms_norm_static_quant(Tensor(a!) result, {_NORM.split(',')[0]}, "
    "Tensor(b!) residual, Tensor weight, Tensor scale, float epsilon) -> ()",
    f"rms_norm_per_token_quant(Tensor(a!) result, {_NORM}, Tensor(b!) scale, float epsilon, "
    "Tensor? scale_ub, Tensor(c!)? residual) -> ()",
    f"rms_norm_per_group_quant(Tensor(a!) result, {_NORM}, Tensor(b!) scale, float epsilon, "
    "Tensor? scale_ub, Tensor(c!)? residual, int group_size) -> ()",
    "silu_and_mul_static_quant(Tensor(a!) result, Tensor input, Tensor scale) -> ()",
    "silu_and_mul_per_group_quant(Tensor(a!) result, Tensor(b!) scale, Tensor input, "
    "int group_size) -> ()",
    "fused_all_reduce_norm(Tensor allreduce_in, Tensor(a!) residual, Tensor(b!) norm_out, "
    "Tensor(c!)? quant_out, Tensor? scale, Tensor weight, float epsilon, int world_size, "
    "int max_token_num) -> ()",
    "fused_qk_norm_rope(Tensor(a!) qkv, int num_heads_q, int num_heads_kv, int head_dim, "
    "float eps, Tensor q_weight, Tensor k_weight, Tensor cos_sin_cache, bool is_neox, "
    "Tensor positions) -> ()",
)


def _same(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _scattered(x: torch.Tensor, dim: int, world_size: int, group_name: str) -> torch.Tensor:
    shape = list(x.shape)
    shape[dim] = shape[dim] // world_size
    return x.new_empty(shape)


def _gathered(x: torch.Tensor, dim: int, world_size: int, group_name: str) -> torch.Tensor:
    shape = list(x.shape)
    shape[dim] = shape[dim] * world_size
    return x.new_empty(shape)


def _matmul_scattered(
    a: torch.Tensor, b: torch.Tensor, dim: int, world_size: int, group_name: str
) -> torch.Tensor:
    return a.new_empty([a.shape[0] // world_size, b.shape[1]])


def _gathered_matmul(
    a: torch.Tensor, b: torch.Tensor, dim: int, world_size: int, group_name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = a.shape[0] * world_size
    return a.new_empty([rows, a.shape[1]]), a.new_empty([rows, b.shape[1]])


def _scaled_gathered_matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    dim: int,
    world_size: int,
    group_name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = a.shape[0] * world_size
    return a.new_empty([rows, a.shape[1]]), a.new_empty([rows, b.shape[1]], dtype=BF16)


_MOVE = "int dim, int world_size, str group_name"
_FUNCTIONAL: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("all_reduce(Tensor x, str group_name) -> Tensor", _same),
    (f"reduce_scatter(Tensor x, {_MOVE}) -> Tensor", _scattered),
    (f"all_gather(Tensor x, {_MOVE}) -> Tensor", _gathered),
    (f"matmul_reduce_scatter(Tensor a, Tensor b, {_MOVE}) -> Tensor", _matmul_scattered),
    (f"all_gather_matmul(Tensor a, Tensor b, {_MOVE}) -> (Tensor, Tensor)", _gathered_matmul),
    (
        f"all_gather_scaled_matmul(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, {_MOVE})"
        " -> (Tensor, Tensor)",
        _scaled_gathered_matmul,
    ),
)


@functools.cache
def declare() -> Any:
    """Declares the ops, once.

    Returns:
        ``torch.ops.spfast_bench``.
    """
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    for schema, fake in (*((s, lambda *a, **k: None) for s in _MUTATING), *_FUNCTIONAL):
        library.define(schema)
        name = schema.split("(", 1)[0]
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)
    _KEPT.append(library)
    return getattr(torch.ops, NAMESPACE)


_KEPT: list[Any] = []
