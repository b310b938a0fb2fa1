"""``async_tp=True`` on real gloo ranks, forward and backward: outputs and gradients stay."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from async_tp.real import Found, cached, lowered, steps

from spfast.testing import run_ranks

LONG = bool(os.environ.get("SPFAST_LONG"))
NARROW, WIDE = torch.bfloat16, torch.float32
only_long = pytest.mark.skipif(not LONG, reason="compiles on more ranks: SPFAST_LONG=1")


def check(case: tuple[str, torch.dtype], one: Found) -> None:
    name, dtype = case
    forward, backward = one.fused
    # Two blocks and a head, or two layers. All gathers but that of what leaves whole: the gradient
    # of the input, and the decoder's output.
    scatters, gathers = {"megatron": (2, 2), "dtensor": (4, 3)}[name]
    assert forward["fused_matmul_reduce_scatter"] == scatters, case
    assert forward["fused_all_gather_matmul"] == backward["fused_all_gather_matmul"] == gathers, (
        case
    )
    # A sum of wide products is several operators.
    assert backward["fused_matmul_reduce_scatter"] >= scatters, case
    left = {"no matrix product reads what it gathers": 1 + scatters - gathers}
    assert one.left == left, case
    if dtype == WIDE:
        assert one.output < 1e-6 and one.gradient < 1e-6, (case, one)
    untouched, fused = one.errors
    assert 0 < fused < 1.1 * untouched, (case, one)


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (2, [("megatron", WIDE)]),
        pytest.param(2, [("megatron", NARROW)], marks=only_long),
        pytest.param(2, [("dtensor", WIDE), ("dtensor", NARROW)], marks=only_long),
        pytest.param(4, [("megatron", WIDE), ("megatron", NARROW)], marks=only_long),
    ],
)
def test_a_step_computes_what_it_did(ranks: int, cases: list[tuple[str, torch.dtype]]) -> None:
    for found in run_ranks(steps, ranks, (cases,), timeout=280):
        for case, one in zip(cases, found, strict=True):
            check(case, one)


@only_long
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_code_is_generated_for_it(mode: str | None) -> None:
    expected = Counter(fused_matmul_reduce_scatter=3, fused_all_gather_matmul=2)
    for output, gradient, fused in run_ranks(lowered, 2, (mode,), timeout=280):
        assert output < 1e-6 and gradient < 1e-6 and fused == expected


@only_long
def test_a_cached_step_runs_in_a_fresh_process(tmp_path: Path) -> None:
    """Forward and backward come from the cache, with the fused operators in them."""
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    for one in run_ranks(cached, 2, timeout=280, environment=environment):
        assert (one.hits, one.misses, one.fused, one.unknown) == (0, 1, 5, 0) and one.worst < 1e-6
    for one in run_ranks(cached, 2, timeout=280, environment=environment):
        # Neither the pass on the joint graph nor the one after it was called, and both say so.
        assert (one.hits, one.misses, one.fused) == (1, 0, 0) and one.unknown > 0
        assert one.worst < 1e-6
