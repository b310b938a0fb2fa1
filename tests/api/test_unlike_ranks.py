"""Ranks that have other local operators, or none: all emit the same collectives, in one order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast
from spfast.testing import run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
RANKS = 2


class Layer(GraphBuilder):
    """The partial sum of a product, summed over the ranks and normed."""

    def __init__(self) -> None:
        super().__init__(tokens=8, dynamic=False)
        self.x = self.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
        self.weight = self.placeholder("weight", (16, 16), torch.float32)
        self.bias = self.placeholder("bias", (16,), torch.float32)
        self.residual = self.placeholder("residual", (TOKENS, 16), torch.float32)
        self.count = self.placeholder("count", (16,), torch.float32)

    def partial(self) -> fx.Node:
        return self.call(aten.mm.default, self.x, self.weight)

    def biased(self) -> fx.Node:
        return self.call(aten.add.Tensor, self.partial(), self.bias)

    def counted(self) -> None:
        self.call(aten.add_.Tensor, self.count, 1)

    def reduced(self, value: fx.Node, operator_: object = c10d.all_reduce.default) -> fx.Node:
        return self.call(c10d.wait_tensor.default, self.call(operator_, value, "sum", "tp"))

    def norm(self, value: fx.Node, counts: bool = False) -> fx.Node:
        total = self.call(aten.add.Tensor, value, self.residual)
        if counts:
            self.counted()
        mean = self.call(aten.mean.dim, self.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
        scale = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, mean, 1e-6))
        return self.call(aten.mul.Tensor, total, scale)


def write_between(own: bool) -> Layer:
    build = Layer()
    reduced = build.reduced(build.partial())
    if own:
        build.counted()
    build.output([build.norm(reduced)])
    return build


def write_amid_the_site(own: bool) -> Layer:
    build = Layer()
    build.output([build.norm(build.reduced(build.partial()), counts=own)])
    return build


def bias_before(own: bool) -> Layer:
    build = Layer()
    build.output([build.norm(build.reduced(build.biased() if own else build.partial()))])
    return build


def bias_in_place_before(own: bool) -> Layer:
    build = Layer()
    partial = build.partial()
    if own:
        build.call(aten.add_.Tensor, partial, build.bias)
    build.output([build.norm(build.reduced(partial, c10d.all_reduce_.default))])
    return build


def bias_before_in_place(own: bool) -> Layer:
    build = Layer()
    partial = build.biased() if own else build.partial()
    build.output([build.norm(build.reduced(partial, c10d.all_reduce_.default))])
    return build


def bias_to_an_input(own: bool) -> Layer:
    # Without the bias it is the input that is written to.
    build = Layer()
    partial = build.call(aten.add.Tensor, build.x, build.bias) if own else build.x
    build.output([build.norm(build.reduced(partial, c10d.all_reduce_.default))])
    return build


REWRITTEN = [
    write_between,
    write_amid_the_site,
    bias_before,
    bias_in_place_before,
    bias_before_in_place,
]


def collectives(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if "c10d" in str(node.target)]


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("drawn", [*REWRITTEN, bias_to_an_input])
def test_what_one_rank_alone_does_changes_no_collective(
    drawn: Callable[[bool], Layer], recognise: str
) -> None:
    layers = [drawn(rank == 0) for rank in range(RANKS)]
    inputs = [[spec.make(rank, 8, 0) for spec in layer.inputs] for rank, layer in enumerate(layers)]
    copies = [[each.clone() for each in row] for row in inputs]
    want = run_lockstep([layer.graph for layer in layers], copies)
    counts = []
    for rank, layer in enumerate(layers):
        config = spfast.SequenceParallelConfig(
            tp_size=RANKS, tp_rank=rank, recognise=recognise, validate=True
        )
        counts.append(spfast.apply(layer.graph, config).matched_count)
    assert counts == [int(drawn in REWRITTEN)] * RANKS
    assert collectives(layers[0].graph) == collectives(layers[1].graph)
    got = run_lockstep([layer.graph for layer in layers], inputs)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(inputs, copies)
