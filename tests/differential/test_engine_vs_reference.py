"""The engine and the reference do the same to every graph: recorded, typical, random, awkward."""

from __future__ import annotations

import os

import pytest
from support.corner_graphs import CORNERS, WORLD, inputs, mean_over_tokens, of_rank
from support.goldens import CASES, load_golden
from torch import fx

import spfast
from bench.equal import assert_same
from bench.workloads.catalogue import WORKLOADS
from spfast import reference
from spfast.testing.graphs import seeded_case
from spfast.testing.lockstep import assert_equivalent

FUZZ = int(os.environ.get("SPFAST_FUZZ", "80"))


def compare(ours: fx.Graph, theirs: fx.Graph, config: spfast.SequenceParallelConfig) -> int:
    """Rewrites one copy of a graph with each; returns the number of sites."""
    engine, oracle = spfast.apply(ours, config), reference.apply(theirs, config)
    ours.lint()
    assert dict(engine.by_pattern) == dict(oracle.by_pattern)
    reasons = [(site.node, site.reason) for site in oracle.skipped]
    assert [(site.node, site.reason) for site in engine.skipped] == reasons
    size = config.tp_size if config.tp_size is not None else min(config.groups)[1][0]
    assert_same(ours, theirs, size, ("the engine", "the reference"))
    assert_as_much_left(ours, theirs)
    return int(engine)


def assert_as_much_left(ours: fx.Graph, theirs: fx.Graph) -> None:
    """Nodes that nobody reads are no part of what a graph does, but neither side may leave more."""
    unread = [
        sorted(
            str(node.target)
            for node in graph.nodes
            if node.op == "call_function" and not node.users
        )
        for graph in (ours, theirs)
    ]
    assert unread[0] == unread[1]


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_goldens(case: str, quantised: bool) -> None:
    ours, theirs = load_golden(case), load_golden(case)
    config = spfast.SequenceParallelConfig(
        tp_size=ours.tp_size,
        tp_rank=ours.tp_rank,
        divisibility="assume",
        gather_quantized=quantised,
        recognise="patterns",
    )
    assert compare(ours.before, theirs.before, config) == ours.matched_count


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_workloads(name: str) -> None:
    workload = WORKLOADS[name]
    setting = workload.setting
    config = spfast.SequenceParallelConfig(
        tp_size=setting.tp_size,
        tp_rank=setting.tp_rank,
        divisibility="assume",
        recognise="patterns",
    )
    assert compare(workload.build(2), workload.build(2), config) == workload.sites(2)


@pytest.mark.parametrize("name", sorted(CORNERS))
def test_corner(name: str) -> None:
    corner = CORNERS[name]
    config = of_rank(1, recognise="patterns")
    assert compare(corner.build().graph, corner.build().graph, config) == corner.rewritten


@pytest.mark.parametrize("replicated", ["prove", ("gain", "full", "scale")])
def test_what_is_taken_on_trust_is_decided_alike(replicated: str | tuple[str, ...]) -> None:
    config = of_rank(1, recognise="patterns", replicated=replicated)
    rewritten = {
        name
        for name, corner in CORNERS.items()
        if compare(corner.build().graph, corner.build().graph, config) == corner.rewritten > 0
    }
    assert ("full_residual_under_another_name" in rewritten) == (replicated != "prove")


@pytest.mark.parametrize("name", sorted(CORNERS))
def test_corner_numerics(name: str) -> None:
    built = CORNERS[name].build()

    def rewrite(graph: fx.Graph, rank: int) -> spfast.Result:
        return spfast.apply(graph, of_rank(rank))

    assert_equivalent(built.graph, rewrite, inputs(built), WORLD, rtol=2e-6)


def test_mean_over_tokens_is_no_norm() -> None:
    config = of_rank(1, recognise="patterns")
    (left,) = spfast.apply(mean_over_tokens().graph, config).skipped
    assert left.reason == (
        "%mean_dim = aten.mean.dim reduces a dim of %pow_tensor_scalar [1, 8, 16] "
        "that is not its last"
    )
    assert int(reference.apply(mean_over_tokens().graph, config)) == 0


def compare_seed(seed: int) -> None:
    case, same = seeded_case(seed), seeded_case(seed)
    config = case.config(seed % case.world_size, recognise="patterns")
    try:
        compare(case.graph, same.graph, config)
    except Exception as error:
        raise AssertionError(f"seed {seed} ({', '.join(case.notes)}): {error}") from error


@pytest.mark.parametrize("first", range(0, FUZZ, 20))
def test_fuzz_random_graphs(first: int) -> None:
    for seed in range(first, min(first + 20, FUZZ)):
        compare_seed(seed)


@pytest.mark.parametrize("seed", [263, 345, 999])
def test_a_dead_site_is_not_kept_for_its_size(seed: int) -> None:
    # The number of a rank's rows was asked of another site's shard, whose readers were all dead.
    compare_seed(seed)


@pytest.mark.parametrize("divisibility", ["prove", "assume", "guard"])
def test_divisibility_is_decided_alike(divisibility: spfast.config.Divisibility) -> None:
    for seed in (17, 18, 24, 26):  # dynamic; the last with a count that is not divisible
        case, same = seeded_case(seed), seeded_case(seed)
        config = case.config(0, divisibility=divisibility, recognise="patterns")
        sites = compare(case.graph, same.graph, config)
        rewritten = divisibility == "assume" or (divisibility == "guard" and case.divisible)
        assert case.dynamic and (sites > 0) == rewritten
