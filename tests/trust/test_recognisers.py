"""Both recognisers together on drawn graphs: right on every rank, and never a loss."""

from __future__ import annotations

from typing import Any

import pytest

import spfast
from spfast.testing.graphs import TensorParallelCase, seeded_case
from spfast.testing.lockstep import assert_equivalent
from tests.trust.checks import never_a_loss

# What once went wrong: a reader in another class of tokens (5013), rows read before the own
# all_reduce of a region (5024).
REGRESSIONS = (5013, 5024)
SEEDS = (*REGRESSIONS, *range(300, 330))


def rewritten(case: TensorParallelCase, recognise: Any) -> int:
    def apply(graph: Any, rank: int) -> spfast.Result:
        config = case.config(rank, recognise=recognise)
        result = spfast.apply(graph, config)
        graph.lint()
        return result

    results = assert_equivalent(
        case.graph, apply, case.inputs(), case.world_size, rtol=case.rtol, groups=case.groups
    )
    assert len({result.matched_count for result in results}) == 1
    return results[0].matched_count


@pytest.mark.parametrize("seed", SEEDS)
def test_both_are_right_and_never_a_loss(seed: int) -> None:
    case = seeded_case(seed)
    rewritten(case, "both")
    never_a_loss(case)
