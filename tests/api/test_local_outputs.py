"""Values that a graph may return as one rank's rows, because its caller gathers them."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

import spfast
from spfast import ConfigError, SequenceParallelConfig
from spfast.testing import clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier import snapshot, verify

RANKS, ROWS, WIDTH = 4, 8, 16
GATHER = torch.ops.vllm.all_gather.default
SCATTER = torch.ops.vllm.reduce_scatter.default


def stage(dynamic: bool = False, twice: bool = False) -> GraphBuilder:
    """The first stage of a pipeline: it returns its last sum over ranks, and the residual."""
    build = GraphBuilder(ROWS, dynamic)
    x = build.placeholder("x", (TOKENS if dynamic else ROWS, WIDTH), torch.float32, "per_rank")
    gain = build.placeholder("gain", (WIDTH,), torch.float32, "gain")
    square = build.placeholder("square", (WIDTH, WIDTH), torch.float32, "per_rank")
    residual = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, residual, gain, 1e-6)
    for _ in range(2):
        product = build.call(torch.ops.aten.mm.default, normed, square)
        reduced = build.call(torch.ops.vllm.all_reduce.default, product, "tp:0")
        both = build.call(
            torch.ops.vllm_ir.fused_add_rms_norm.default, reduced, residual, gain, 1e-6
        )
        normed, residual = (build.call(operator.getitem, both, place) for place in (0, 1))
    product = build.call(torch.ops.aten.mm.default, normed, square)
    hidden = build.call(torch.ops.vllm.all_reduce.default, product, "tp:0")
    build.output([hidden, residual, *([residual] if twice else [])])
    return build


def config(rank: int, **fields: Any) -> SequenceParallelConfig:
    return SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, **fields)


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_ranks_rows_together_are_what_was_returned(recognise: Any, dynamic: bool) -> None:
    build = stage(dynamic)
    graphs = [copy_graph(build.graph) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        said = config(rank, recognise=recognise, local_outputs=(1,))
        assert spfast.apply(graph, said).matched_count == 3
        graph.lint()
        assert len(graph.find_nodes(op="call_function", target=SCATTER)) == 3
        assert len(graph.find_nodes(op="call_function", target=GATHER)) == 3
        assert verify(snapshot(build.graph), graph, said)
        found = verify(snapshot(build.graph), graph, config(rank))
        assert not found and "which is one rank's chunk" in str(found)
        found = verify(snapshot(build.graph), graph, config(rank, local_outputs=(0,)))
        assert not found, "it is another output that may be rows"
    inputs = [[spec.make(rank, ROWS, 0) for spec in build.inputs] for rank in range(RANKS)]
    groups = {"tp:0": tuple(range(RANKS))}
    before = run_lockstep([build.graph] * RANKS, [clone_inputs(i) for i in inputs], groups=groups)
    after = run_lockstep(graphs, [clone_inputs(i) for i in inputs], groups=groups)
    assert all(torch.equal(was[0], now[0]) for was, now in zip(before, after, strict=True))
    assert torch.equal(torch.cat([now[1] for now in after]), before[0][1])


def test_without_it_such_a_stage_would_gather_one_value_more() -> None:
    result = spfast.apply(stage().graph, config(0))
    assert result.matched_count == 0
    assert {site.reason for site in result.skipped} >= {
        "gathering what is computed from it would move more bytes than its all_reduce does, "
        "or as many in more collectives"
    }


def test_what_is_returned_twice_leaves_whole() -> None:
    build = stage(twice=True)
    graph = copy_graph(build.graph)
    said = config(0, recognise="patterns", local_outputs=(1,))
    assert spfast.apply(graph, said).matched_count == 3
    assert verify(snapshot(build.graph), graph, config(0))


def test_a_place_that_is_none_changes_nothing() -> None:
    one, other = stage().graph, stage().graph
    spfast.apply(one, config(0, recognise="patterns"))
    spfast.apply(other, config(0, recognise="patterns", local_outputs=(7,)))
    assert str(one) == str(other)


def test_places_are_numbers() -> None:
    with pytest.raises(ConfigError, match=r"local_outputs=\('1',\) must be a tuple of int"):
        config(0, local_outputs=("1",))


def test_a_graph_that_is_called_has_other_outputs() -> None:
    assert config(0, local_outputs=(1,)).inside("body.").local_outputs == ()
