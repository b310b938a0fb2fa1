"""Stand-ins of vLLM's products of float8 values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["BATCHED", "CUTLASS"]


def _cutlass(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    out.copy_(torch._scaled_mm(a, b, a_scales, b_scales, bias, out_dtype=out.dtype))


def _batched(
    A: torch.Tensor,
    B: torch.Tensor,
    A_scale: torch.Tensor,
    B_scale: torch.Tensor,
    dtype: torch.dtype,
    backend: str,
) -> torch.Tensor:
    return torch._scaled_mm(A[0], B[0], A_scale, B_scale, out_dtype=dtype).unsqueeze(0)


def _batched_fake(
    A: torch.Tensor,
    B: torch.Tensor,
    A_scale: torch.Tensor,
    B_scale: torch.Tensor,
    dtype: torch.dtype,
    backend: str,
) -> torch.Tensor:
    return A.new_empty((*A.shape[:-1], B.shape[-1]), dtype=dtype)


CUTLASS: tuple[str, Callable[..., Any]] = (
    "cutlass_scaled_mm(Tensor(a!) out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, "
    "Tensor? bias=None) -> ()",
    _cutlass,
)
BATCHED: tuple[str, Callable[..., Any], Callable[..., Any]] = (
    "bmm_fp8(Tensor A, Tensor B, Tensor A_scale, Tensor B_scale, ScalarType dtype, "
    "str backend) -> Tensor",
    _batched,
    _batched_fake,
)
