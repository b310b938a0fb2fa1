"""The reference on recorded graphs, on random ones, and where it must leave a graph alone."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from support.goldens import CASES, load_golden, op_counts, wiring
from torch import fx

import spfast
from spfast import reference
from spfast.errors import ConfigError, GraphError
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.testing.graphs import GraphOptions, seeded_case
from spfast.testing.lockstep import assert_equivalent

SEEDS = int(os.environ.get("SPFAST_FUZZ", "200")) // 5


def of_rank(rank: int, world: int) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(tp_size=world, tp_rank=rank)


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    golden = load_golden(case)
    config = spfast.SequenceParallelConfig(
        tp_size=golden.tp_size,
        tp_rank=golden.tp_rank,
        divisibility="assume",
        gather_quantized=False,  # as in the recorded runs
    )
    result = reference.apply(golden.before, config)
    golden.before.lint()
    assert int(result) == golden.matched_count
    assert result.skipped == ()
    assert op_counts(golden.before) == op_counts(golden.after)
    assert wiring(golden.before) == wiring(golden.after)


def check(options: GraphOptions, seeds: range) -> int:
    """Rewrites and runs the graphs of these seeds on all ranks; returns the number of sites."""
    sites = 0
    for seed in seeds:
        case = seeded_case(seed, options)

        def rewrite(graph: fx.Graph, rank: int, config: Any = case.config) -> spfast.Result:
            result = reference.apply(graph, config(rank))
            graph.lint()
            return result

        try:
            results = assert_equivalent(
                case.graph,
                rewrite,
                case.inputs(),
                case.world_size,
                rtol=case.rtol,
                groups=case.groups,
            )
        except Exception as error:
            raise AssertionError(f"seed {seed} ({', '.join(case.notes)}): {error}") from error
        assert len(set(map(int, results))) == 1
        assert case.divisible or int(results[0]) == 0
        sites += int(results[0])
    return sites


KINDS = {
    "static": GraphOptions(dynamic=False),
    "dynamic": GraphOptions(world_sizes=(2,)),
    "three dims": GraphOptions(dialects=("functional",)),
    "several groups": GraphOptions(several_groups=1.0),
    "quantised": GraphOptions(fp8=1.0, odd_tokens=0.0),
    "irregular": GraphOptions(irregular=0.6, odd_tokens=0.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fuzz_every_rank_computes_the_same(kind: str) -> None:
    seeds = range(max(1, SEEDS // len(KINDS)))
    assert check(KINDS[kind], seeds) > 0


def test_token_counts_that_are_not_divisible_stay() -> None:
    assert check(GraphOptions(odd_tokens=1.0, dynamic=False, three_d=False), range(8)) == 0


# --- what is refused ------------------------------------------------------------------------------


def small(dynamic: bool = False, group: str = "tp:0") -> GraphBuilder:
    build = GraphBuilder(tokens=8, dynamic=dynamic)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, "per_rank")
    weight = build.placeholder("weight", (16,), torch.float32, "gain")
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, group)
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, reduced, weight, 1e-6)
    build.output([normed])
    return build


def test_unknown_group_names_the_fields_to_pass() -> None:
    graph = small().graph
    before = str(graph)
    with pytest.raises(ConfigError, match="'tp:0' is not known .* pass tp_size and tp_rank"):
        reference.apply(graph)
    assert str(graph) == before


def test_another_group_stays() -> None:
    config = spfast.SequenceParallelConfig(tp_size=2, tp_rank=0, group_name="other")
    (left,) = reference.apply(small().graph, config).skipped
    assert left.reason == "its group 'tp:0' is not group_name='other'"


def test_a_thing_that_is_no_graph() -> None:
    with pytest.raises(GraphError, match="is not a graph"):
        reference.apply([])  # type: ignore[arg-type]


def test_guard_is_added_only_for_what_is_rewritten() -> None:
    rewritten, odd = small(dynamic=True), small(dynamic=True)
    assert int(reference.apply(rewritten.graph, of_rank(0, 2))) == 1
    assert int(reference.apply(odd.graph, of_rank(0, 3))) == 0
    guards = [
        [str(guard.expr) for guard in build.mode.shape_env.guards]  # type: ignore[union-attr]
        for build in (rewritten, odd)
    ]
    assert len(guards[0]) == 1 and "Mod" in guards[0][0] and guards[1] == []


def test_failure_half_way_restores_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small().graph
    nodes, text = list(graph.nodes), str(graph)
    shapes = [node.meta.get("val") for node in nodes]

    def fail(_: fx.Graph, node: fx.Node) -> None:
        raise RuntimeError(f"cannot erase {node}")

    monkeypatch.setattr(fx.Graph, "erase_node", fail)
    with pytest.raises(RuntimeError, match="cannot erase"):
        reference.apply(graph, of_rank(1, 2))
    monkeypatch.undo()
    graph.lint()
    assert str(graph) == text and list(graph.nodes) == nodes
    assert all(
        node.meta.get("val") is shape for node, shape in zip(graph.nodes, shapes, strict=True)
    )
    assert int(reference.apply(graph, of_rank(1, 2))) == 1


def test_values_are_what_fake_tensor_mode_computes() -> None:
    build = small(dynamic=True)
    reference.apply(build.graph, of_rank(1, 2))
    for node in build.graph.nodes:
        if node.op != "call_function":
            continue
        with build.mode:
            args = fx.node.map_arg(node.args, lambda n: n.meta["val"])
            expected = node.target(*args)
        assert str(tuple(node.meta["val"].shape)) == str(tuple(expected.shape))
        assert node.meta["val"].dtype == expected.dtype
