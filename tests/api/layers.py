"""Small layers with all_reduces of any form, and what is said of those that stay."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

import spfast
from spfast.testing import clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
RANKS = 4


def of_rank(rank: int, **fields: Any) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, validate=True, **fields)


class Layers(GraphBuilder):
    """Partial sums of two products, and what is made of their sums."""

    def __init__(self) -> None:
        super().__init__(tokens=8, dynamic=False)
        self.x = self.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
        self.weight = self.placeholder("weight", (16, 16), torch.float32)
        self.residual = self.placeholder("residual", (TOKENS, 16), torch.float32)

    def partial(self) -> fx.Node:
        return self.call(aten.mm.default, self.x, self.weight)

    def wait(self, started: fx.Node) -> fx.Node:
        return self.call(c10d.wait_tensor.default, started)

    def several(self, operator_: Any, *tensors: fx.Node) -> list[fx.Node]:
        started = self.call(operator_, list(tensors), "sum", "tp")
        parts = [self.call(operator.getitem, started, at) for at in range(len(tensors))]
        return [self.wait(part) for part in parts]

    def norm(self, reduced: fx.Node) -> fx.Node:
        total = self.call(aten.add.Tensor, reduced, self.residual)
        mean = self.call(aten.mean.dim, self.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
        scale = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, mean, 1e-6))
        return self.call(aten.mul.Tensor, total, scale)

    def largest(self, value: fx.Node) -> fx.Node:
        return self.call(aten.amax.default, value, [-1], True)

    def product(self, value: fx.Node) -> fx.Node:
        return self.call(aten.mm.default, value, self.weight)


def reasons(graph: fx.Graph, **fields: Any) -> dict[str, str]:
    """Of what stays; explain() and apply() say the same, and the graph is as it was."""
    before = str(graph)
    entries = spfast.explain(graph, of_rank(1, **fields)).entries
    result = spfast.apply(graph, of_rank(1, **fields))
    assert int(result) == 0 and str(graph) == before
    assert [entry.node for entry in entries] == [site.node for site in result.skipped]
    assert [entry.reason for entry in entries] == [site.reason for site in result.skipped]
    return {site.node: site.reason for site in result.skipped}


def run_as(expected: Layers, built: Layers) -> list[spfast.Result]:
    """Rewrites on every rank, and compares with another graph that computes the same."""
    inputs = [[spec.make(rank, 8, 0) for spec in built.inputs] for rank in range(RANKS)]
    want = run_lockstep([expected.graph] * RANKS, [clone_inputs(row) for row in inputs])
    after, results = [], []
    for rank in range(RANKS):
        graph = copy_graph(built.graph)
        results.append(spfast.apply(graph, of_rank(rank)))
        graph.lint()
        after.append(graph)
    for ours, theirs in zip(run_lockstep(after, inputs), want, strict=True):
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right)
    return results


def targets(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if "c10d" in str(node.target)]
