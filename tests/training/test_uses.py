"""Training as people set it up: gradients are those of the eager step, and collectives are few."""

from __future__ import annotations

import os

import pytest

from spfast.testing.gloo import run_ranks
from tests.training.uses import (
    Seen,
    many_steps,
    narrow,
    two_by_two,
    two_ranks,
    two_ranks_of_dtensors,
)

LONG = bool(os.environ.get("SPFAST_LONG"))
RELATIVE = 1e-6


def check(ranks: list[Seen]) -> Seen:
    for one in ranks:
        assert one.loss[1] == pytest.approx(one.loss[0], rel=1e-6)
        assert one.worst < RELATIVE, one.where
        assert one.collectives == ranks[0].collectives
    return ranks[0]


def test_two_ranks() -> None:
    found = run_ranks(two_ranks, 2, timeout=280)
    seen = {use: check([ranks[use] for ranks in found]) for use in found[0]}
    # A block with one each way, and the head. The values come in whole and their gradient leaves
    # whole: beside a gather for each there is none.
    assert seen["saved"].collectives == {"reduce_scatter": 3, "all_gather": 3, "all_reduce": 0}
    # What is computed again reduces and gathers again, as it does without the pass.
    assert seen["checkpointed"].collectives["all_reduce"] == 0
    assert seen["checkpointed"].saved < seen["saved"].saved
    again = seen["again"]
    assert again.collectives["all_gather"] > seen["saved"].collectives["all_gather"]
    assert again.collectives["reduce_scatter"] == seen["saved"].collectives["reduce_scatter"]
    assert again.saved < seen["saved"].saved
    # One pair of graphs for all lengths that are divisible, another for the rest.
    dynamic = seen["dynamic, accumulated"]
    assert dynamic.graphs == 4
    assert dynamic.collectives == {"reduce_scatter": 3, "all_gather": 3, "all_reduce": 3}


@pytest.mark.skipif(not LONG, reason="compiles four decoders: SPFAST_LONG=1")
def test_two_ranks_of_dtensors() -> None:
    found = run_ranks(two_ranks_of_dtensors, 2, timeout=900)
    seen = {use: check([ranks[use] for ranks in found]) for use in found[0]}
    # Four a layer, and a gather for each.
    assert seen["saved"].collectives == {"reduce_scatter": 8, "all_gather": 8, "all_reduce": 0}
    # Two a layer, and one of the logits.
    assert seen["tied"].collectives == {"reduce_scatter": 6, "all_gather": 7, "all_reduce": 0}
    assert seen["checkpointed"].collectives["all_reduce"] == 0
    assert seen["checkpointed"].saved < seen["saved"].saved
    assert seen["again"].saved < seen["saved"].saved


@pytest.mark.skipif(not LONG, reason="compiles four steps: SPFAST_LONG=1")
def test_narrow_dtypes_are_no_further_from_float64() -> None:
    for errors in run_ranks(narrow, 2, timeout=900):
        for name, one in errors.items():
            assert one.collectives["reduce_scatter"] > 0, name
            assert 0 < one.mine < 1.1 * one.plain, (name, one)


@pytest.mark.skipif(not LONG, reason="trains for a minute: SPFAST_LONG=1")
def test_fifty_steps_of_adamw_have_the_same_losses() -> None:
    for plain, mine in run_ranks(many_steps, 2, (50,), timeout=900):
        assert plain[-1] < plain[0] / 2, "it learns"
        assert mine == pytest.approx(plain, rel=1e-4)


@pytest.mark.skipif(not LONG, reason="compiles on four ranks: SPFAST_LONG=1")
def test_two_by_two() -> None:
    found = run_ranks(two_by_two, 4, timeout=900)
    for one, group in found:
        check([one])
        assert one.groups == {group}
        assert one.collectives["reduce_scatter"] > 0
