"""A size of a value is known without the value: who asks for no more gets nothing gathered."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.testing import clone_inputs, copy_graph, ops, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier import snapshot, verify

RANKS, WIDTH = 4, 32
aten = torch.ops.aten
GATHER = torch.ops.vllm.all_gather.default
VALUES = ("input", "reduced", "normed", "residual", "scaled")


def layer(sized: str) -> GraphBuilder:
    """Two sites and, behind them, a buffer of as many tokens as ``sized`` has."""
    ops.declare()
    build = GraphBuilder(8, True)
    build.placeholder("tokens", (), torch.int64, "size")
    x = build.placeholder("x", (TOKENS, WIDTH), torch.float32, "per_rank")
    weight = build.placeholder("weight", (WIDTH,), torch.float32, "gain")
    own = build.placeholder("own", (WIDTH, WIDTH), torch.float32, "per_rank")
    first = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, first, weight, 1e-6)
    mine = build.call(aten.mm.default, normed, own)
    second = build.call(torch.ops.vllm.all_reduce.default, mine, "tp:0")
    both = build.call(torch.ops.vllm_ir.fused_add_rms_norm.default, second, first, weight, 1e-6)
    last, residual = (build.call(operator.getitem, both, place) for place in range(2))
    scaled = build.call(aten.mul.Tensor, residual, 2.0)
    named = {"input": x, "reduced": first, "normed": normed, "residual": residual}
    size = build.call(aten.sym_size.int, {**named, "scaled": scaled}[sized], 0)
    options = {"dtype": torch.float32, "device": torch.device("cpu"), "pin_memory": False}
    buffer = build.call(aten.full.default, [size, WIDTH], 1.0, **options)
    total = build.call(aten.add.Tensor, scaled, last)
    build.output([build.call(aten.mm.default, total, own), buffer])
    return build


def rewritten(build: GraphBuilder, **options: Any) -> list[fx.Graph]:
    graphs = [copy_graph(build.graph) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, **options)
        result = spfast.apply(graph, config)
        assert result.matched_count == 2, result
        graph.lint()
        proof = verify(snapshot(build.graph), graph, config)
        assert proof, proof
    return graphs


@pytest.mark.parametrize("recognise", ["both", "rowwise", "patterns"])
@pytest.mark.parametrize(("tokens", "divisibility"), [(8, "guard"), (6, "pad")])
@pytest.mark.parametrize("sized", VALUES)
def test_a_size_is_right_and_gathers_nothing(
    sized: str, tokens: int, divisibility: str, recognise: str
) -> None:
    build = layer(sized)
    graphs = rewritten(build, recognise=recognise, divisibility=divisibility)
    plain = rewritten(layer("input"), recognise=recognise, divisibility=divisibility)
    for one, other in zip(graphs, plain, strict=True):
        kind = {"op": "call_function", "target": GATHER}
        assert len(one.find_nodes(**kind)) == len(other.find_nodes(**kind))
    inputs = [[spec.make(rank, tokens, 0) for spec in build.inputs] for rank in range(RANKS)]
    groups = {"tp:0": tuple(range(RANKS))}
    before = run_lockstep([build.graph] * RANKS, [clone_inputs(g) for g in inputs], groups=groups)
    after = run_lockstep(graphs, [clone_inputs(g) for g in inputs], groups=groups)
    for expected, found in zip(before, after, strict=True):
        assert found[1].shape == (tokens, WIDTH)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
