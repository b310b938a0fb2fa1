"""Every family through torch.compile on real gloo ranks: the same outputs as without the pass."""

from __future__ import annotations

import os
from typing import Any

import pytest

from spfast.testing.gloo import run_ranks
from spfast.testing.models.endtoend import Comparison, compare_all
from spfast.testing.models.families import FAMILIES

LONG = bool(os.environ.get("SPFAST_LONG"))
# Compiling one model takes many seconds: one stands for all unless there is time.
SHORT_DYNAMIC = ("tp_fp8_static",)
SIZES = (2, 4) if LONG else (2,)
# gloo adds up the parts of four ranks in another order for a reduce_scatter.
TOLERANCE = 1e-6


def _run(world_size: int, cases: list[dict[str, Any]]) -> list[list[Comparison]]:
    by_rank = run_ranks(compare_all, world_size, (cases,), timeout=3500 if LONG else 900)
    return [list(one) for one in zip(*by_rank, strict=True)]


def _check(ranks: list[Comparison]) -> None:
    for one in ranks:
        assert one.rewritten == ranks[0].rewritten, "the ranks rewrote different sites"
        assert one.rewritten[0] > 0, f"{one.family}: nothing was rewritten"
        assert max(one.differences) <= TOLERANCE, f"{one.family}: {one.differences}"


@pytest.mark.skipif(not LONG, reason="compiles every family twice: SPFAST_LONG=1")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", SIZES)
def test_static(world_size: int) -> None:
    cases = [
        {"family": family, "lengths": [16], "batch": batch}
        for family in FAMILIES
        for batch in (1, 4)
    ]
    for ranks in _run(world_size, cases):
        _check(ranks)
        assert ranks[0].compilations == 1


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", SIZES)
def test_dynamic(world_size: int) -> None:
    """One graph serves every divisible length; one that is not divisible compiles anew, once."""
    families = FAMILIES if LONG else SHORT_DYNAMIC
    cases = [
        {"family": family, "lengths": [24, 16, 64, 33], "batch": 1, "dynamic": True}
        for family in families
    ]
    for ranks in _run(world_size, cases):
        _check(ranks)
        assert ranks[0].compilations == 2, ranks[0]
        assert ranks[0].rewritten[1] == 0, "33 tokens cannot be shared"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", SIZES)
def test_padded(world_size: int) -> None:
    """One graph serves every length, but where each rank has one row: torch takes no 1 for any."""
    families = FAMILIES if LONG else SHORT_DYNAMIC
    cases: list[dict[str, Any]] = [
        {
            "family": family,
            "lengths": lengths,
            "dynamic": lengths != [1],
            "divisibility": "pad",
        }
        for family in families
        for lengths in ([6, 2, 3, 4, 5, 7, 8, 9], [1])[: 2 if LONG else 1]
    ]
    for case, ranks in zip(cases, _run(world_size, cases), strict=True):
        _check(ranks)
        assert ranks[0].compilations == (2 if case["dynamic"] else 1), ranks[0]
        assert [bool(count) for count in ranks[0].rewritten] == [True, False][
            : len(case["lengths"])
        ]
