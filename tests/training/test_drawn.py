"""Drawn training steps: all ranks compute what they computed, and the verifier proves it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from torch import fx

import spfast
from spfast.testing import async_tp_stand_in
from spfast.testing.choose import SeededChooser
from spfast.testing.graphs import TensorParallelCase
from spfast.testing.lockstep import assert_equivalent
from spfast.testing.training_graphs import draw_step, steps

LONG = bool(os.environ.get("SPFAST_LONG"))
# Of the few, the last three have a single token for each rank.
SEEDS = range(400) if LONG else (0, 1, 2, 3, 4, 7, 13, 15)


def check(case: TensorParallelCase, **config: Any) -> spfast.Result:
    def rewrite(graph: fx.Graph, rank: int) -> spfast.Result:
        result = spfast.apply(graph, case.config(rank, validate=True, **config))
        graph.lint()
        return result

    inputs, world = case.inputs(), case.world_size
    # A gradient is a sum of sums: the rounding of each adds up.
    results = assert_equivalent(case.graph, rewrite, inputs, world, 4 * case.rtol, case.groups)
    assert len({str(result) for result in results}) == 1
    return results[0]


def test_drawn_steps() -> None:
    merged = totals = rewritten = 0
    for seed in SEEDS:
        case = draw_step(SeededChooser(seed))
        try:
            result = check(case)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {', '.join(case.notes)}") from error
        merged += len(result.merged)
        totals += len(result.totals)
        rewritten += int(result)
    assert merged and totals and rewritten > len(SEEDS)


def test_drawn_steps_whose_pairs_are_fused() -> None:
    fused = 0
    for seed in SEEDS:
        with async_tp_stand_in():
            result = check(draw_step(SeededChooser(seed)), async_tp=True, async_tp_thresholds=())
        fused += int(result.async_tp or 0)
    assert fused > len(SEEDS), "too few pairs were drawn"


@pytest.mark.skipif(not LONG, reason="hundreds of steps: SPFAST_LONG=1")
@given(steps())
@settings(max_examples=200, deadline=None)
def test_steps_that_hypothesis_draws(case: TensorParallelCase) -> None:
    check(case)
