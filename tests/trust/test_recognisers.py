"""Both recognisers together on drawn graphs: right on every rank, and never a loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import spfast
from spfast.testing.builder import TOKENS, GraphBuilder
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


@pytest.mark.parametrize("scaled", [False, True], ids=["widened", "widened and scaled"])
def test_a_norm_is_gathered_before_it_is_made_wider(scaled: bool) -> None:
    """A pattern takes the conversion at its end; alone, the row-wise recogniser leaves it."""
    aten, c10d = torch.ops.aten, torch.ops._c10d_functional
    convert = torch.ops.prims.convert_element_type.default
    b = GraphBuilder(tokens=8, dynamic=False)
    part = b.placeholder("part", (TOKENS, 16), torch.float64, kind="per_rank")
    x = b.call(c10d.wait_tensor.default, b.call(c10d.all_reduce.default, part, "sum", "0"))
    single = b.call(convert, x, torch.float32)
    mean = b.call(aten.mean.dim, b.call(aten.pow.Tensor_Scalar, single, 2), [-1], True)
    root = b.call(aten.rsqrt.default, b.call(aten.add.Tensor, mean, 1e-6))
    normed = b.call(convert, b.call(aten.mul.Tensor, single, root), torch.float64)
    if scaled:
        gain = b.placeholder("gain", (16,), torch.float64)
        normed = b.call(aten.mul.Tensor, normed, gain)
    b.output([normed])

    gathered = {}
    for recognise in ("patterns", "both", "rowwise"):

        def apply(graph: Any, rank: int, recognise: Any = recognise) -> spfast.Result:
            config = spfast.SequenceParallelConfig(
                tp_size=2, tp_rank=rank, recognise=recognise, validate=True
            )
            return spfast.apply(graph, config)

        inputs = [[spec.make(rank, 8, 1) for spec in b.inputs] for rank in range(2)]
        results = assert_equivalent(b.graph, apply, inputs, 2, rtol=1e-6)
        assert [result.matched_count for result in results] == [1, 1]
        graph = copy.deepcopy(b.graph)
        apply(graph, 0)
        gathered[recognise] = {
            node.args[0].meta["val"].dtype
            for node in graph.nodes
            if node.target is c10d.all_gather_into_tensor.default
        }
    assert gathered == {
        "patterns": {torch.float64},
        "both": {torch.float32},
        "rowwise": {torch.float32},
    }
