"""The graph generator: one graph for a seed, sound graphs, every irregularity in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from spfast.testing.graphs import GraphOptions, TensorParallelCase, cases, seeded_case
from spfast.testing.lockstep import assert_equivalent, assert_same, run_lockstep
from spfast.testing.taps import TAPS


def test_a_seed_gives_one_graph() -> None:
    for seed in range(10):
        first, second = seeded_case(seed), seeded_case(seed)
        assert str(first.graph) == str(second.graph)
        assert_same(first.inputs(), second.inputs(), 0.0, f"inputs of seed {seed}")
    assert len({str(seeded_case(seed).graph) for seed in range(10)}) == 10


@pytest.mark.parametrize("seed", range(12))
def test_values_are_what_running_gives(seed: int) -> None:
    case = seeded_case(seed)
    outputs = run_lockstep([case.graph] * case.world_size, case.inputs(), case.groups)
    (output,) = (node for node in case.graph.nodes if node.op == "output")
    results: list[torch.Tensor] = list(outputs[0])
    for node, result in zip(output.args[0], results, strict=True):
        value = node.meta["val"]
        assert isinstance(value, FakeTensor)
        assert value.dtype == result.dtype
        if not case.dynamic:
            assert tuple(value.shape) == tuple(result.shape)
    case.graph.lint()


def test_ranks_compute_the_same_where_the_output_is_reduced() -> None:
    case = seeded_case(3, GraphOptions(irregular=0.0, fp8=0.0))
    outputs = run_lockstep([case.graph] * case.world_size, case.inputs(), case.groups)
    different = case.inputs()
    assert any(
        isinstance(left, torch.Tensor) and not torch.equal(left, right)
        for left, right in zip(different[0], different[1], strict=True)
    ), "each rank must have weights of its own, or wrong rows could not be seen"
    assert len(outputs) == case.world_size


def test_everything_that_can_be_drawn_is_drawn() -> None:
    wanted = {*TAPS, "clone", "alias", "detach", "view", "slice", "there_and_back"}
    wanted |= {"odd", "two groups", "bare", "fp8", "mixed", "3D", "dynamic", "no"}
    wanted |= {"vllm_ir", "vllm_custom_ops", "functional", "dead", "avg", "max", "long"}
    for seed in range(150):
        case = seeded_case(seed)
        wanted -= {note.split(" ")[0] for note in case.notes}
        wanted -= {"long"} if len(case.sites) > 8 else set()
        wanted -= {"odd"} if not case.divisible else set()
        wanted -= {"two groups"} if len({site.group for site in case.sites}) > 1 else set()
        wanted -= {"bare"} if any(not site.has_norm for site in case.sites) else set()
        wanted -= {"fp8"} if any(site.quantised for site in case.sites) else set()
        wanted -= {"mixed"} if len({site.quantised for site in case.sites}) > 1 else set()
        if not wanted:
            break
    assert not wanted


def test_a_dynamic_graph_runs_at_other_sizes() -> None:
    dynamic = [case for case in (seeded_case(seed) for seed in range(40)) if case.dynamic][:5]
    assert len(dynamic) == 5
    for case in dynamic:
        tokens = case.tokens + case.world_size
        assert_equivalent(
            case.graph, _nothing, case.inputs(tokens), case.world_size, 0.0, case.groups
        )


def _nothing(graph: fx.Graph, rank: int) -> None:
    return None


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(GraphOptions(max_layers=1)))
def test_hypothesis_draws_sound_graphs(case: TensorParallelCase) -> None:
    case.graph.lint()
    run_lockstep([case.graph] * case.world_size, case.inputs(), case.groups)
