"""On two GPUs: our kernels of the fused operators beside torch's, and in a CUDA graph.

Skipped where there are no two GPUs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

import spfast
from spfast.testing.gloo import run_ranks

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
FP8 = torch.float8_e4m3fn


def calls(rank: int, group: str) -> dict[str, Any]:
    """Calls of the four operators, of operands that all ranks can make."""
    generator = torch.Generator("cuda").manual_seed(rank)

    def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, device="cuda", generator=generator).to(dtype)

    ops = torch.ops.symm_mem
    one, row = torch.ones((), device="cuda"), torch.rand(512, 1, device="cuda") + 0.5
    columns = torch.ones(1, 256, device="cuda")
    x, tokens = drawn(256, 512), drawn(2, 128, 512)
    rights = [drawn(512, 256), drawn(512, 768)]
    left8, right8 = drawn(512, 512, dtype=FP8), drawn(256, 512, dtype=FP8).t()
    found: dict[str, Any] = {}
    for returns in (True, False):
        found[f"gather {returns}"] = lambda returns=returns: ops.fused_all_gather_matmul(
            x, rights, 0, group, return_A=returns
        )
        found[f"gather of tokens {returns}"] = lambda returns=returns: ops.fused_all_gather_matmul(
            tokens, rights, 1, group, return_A=returns
        )
    for op in ("sum", "avg"):
        found[op] = lambda op=op: ops.fused_matmul_reduce_scatter(x, rights[0], op, 0, group)
    found["tokens"] = lambda: ops.fused_matmul_reduce_scatter(tokens, rights[0], "sum", 1, group)
    for name, scale, right in (("one scale", one, one), ("scale a row", row, columns)):
        found[f"scaled gather, {name}"] = lambda s=scale, r=right: (
            ops.fused_all_gather_scaled_matmul(
                *(left8, [right8], s, [r], 0, group, [None], [None]),
                *([torch.bfloat16], [False]),
            )
        )
        found[f"scaled, {name}"] = lambda s=scale, r=right: ops.fused_scaled_matmul_reduce_scatter(
            *(left8, right8, s, r, "sum", 0, 0, group, [512, 256]), out_dtype=torch.bfloat16
        )
    return found


def _flat(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    return [each for one in found if one is not None for each in _flat(one)]


def differences(rank: int, ranks: int) -> dict[str, tuple[float, float, bool]]:
    """Of each call: how far ours are from torch's, also replayed, and whether strides are alike."""
    torch.cuda.set_device(rank)
    group = dist.new_group(backend="nccl")
    found: dict[str, tuple[float, float, bool]] = {}
    for name, call in calls(rank, group.group_name).items():
        spfast.enable_async_tp(group, kernels="torch")
        theirs = [each.clone() for each in _flat(call())]
        strides = [each.stride() for each in _flat(call())]
        spfast.enable_async_tp(group)
        for _ in range(3):
            ours = _flat(call())
        alike = [each.stride() for each in ours] == strides
        far = max(_far(a, b) for a, b in zip(ours, theirs, strict=True))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            ours = _flat(call())
        for each in ours:
            each.zero_()  # the capture wrote nothing; what was there before must not count
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        replayed = max(_far(a, b) for a, b in zip(ours, theirs, strict=True))
        found[name] = (far, replayed, alike)
    return found


def _far(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double(), other.double()
    return float((one - other).norm() / other.norm())


def test_ours_are_torchs() -> None:
    for found in run_ranks(differences, 2, timeout=280):
        assert len(found) == 11
        for name, (far, replayed, alike) in found.items():
            assert far < 4e-3 and replayed < 4e-3 and alike, (name, far, replayed, alike)
