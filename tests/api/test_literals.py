"""Literals of a graph may be another rank's others: constants are what all ranks have, or not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from api.layers import RANKS, Layers, aten, of_rank
from torch import fx

import spfast
from spfast import reference
from spfast.consistency import done_together
from spfast.testing import assert_same, clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

c10d = torch.ops._c10d_functional
Mask = Callable[[Layers, int], fx.Node]


def rows_of(b: Layers, rank: int) -> fx.Node:
    """The tokens of a rank."""
    tokens = b.call(aten.arange.default, 8)
    halves = b.call(aten.div.Tensor_mode, tokens, 4, rounding_mode="floor")
    return b.call(aten.unsqueeze.default, b.call(aten.eq.Scalar, halves, rank), 1)


def features_of(b: Layers, rank: int) -> fx.Node:
    features = b.call(aten.arange.default, 16)
    return b.call(aten.eq.Scalar, b.call(aten.remainder.Scalar, features, RANKS), rank)


def blocks_of(b: Layers, rank: int) -> fx.Node:
    """The features of a rank, told by an operator that no rule calls row by row."""
    features = b.call(aten.arange.default, 16)
    return b.call(aten.eq.Scalar, b.call(aten.floor_divide.default, features, 4), rank)


def norm_of(b: Layers, x: fx.Node) -> fx.Node:
    mean = b.call(aten.mean.dim, b.call(aten.pow.Tensor_Scalar, x, 2), [-1], True)
    return b.call(aten.mul.Tensor, x, b.call(aten.rsqrt.default, mean))


def masked(mask: Mask, rank: int, reduce_op: str | None = "sum") -> Layers:
    """What a rank selects by its own literals, reduced over the ranks or not."""
    build = Layers()
    total = build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
    normed = norm_of(build, total)
    kept = build.call(aten.where.ScalarOther, mask(build, rank), normed, 0.0)
    if reduce_op is not None:
        kept = build.wait(build.call(c10d.all_reduce.default, kept, reduce_op, "tp"))
    build.output([norm_of(build, build.call(aten.add.Tensor, kept, normed))])
    return build


@pytest.mark.parametrize("mask", [rows_of, features_of, blocks_of])
@pytest.mark.parametrize("replicated", ["infer", "prove"])
@pytest.mark.parametrize("reduce_op", ["sum", "avg", "max"])
@pytest.mark.parametrize("apply", [spfast.apply, reference.apply])
def test_what_constants_select_for_a_reduction_is_the_rank_s_own(
    mask: Mask, apply: Callable[..., Any], reduce_op: str, replicated: Any
) -> None:
    built = [masked(mask, rank, reduce_op) for rank in range(RANKS)]
    inputs = [[spec.make(rank, 8, 0) for spec in built[0].inputs] for rank in range(RANKS)]
    want = run_lockstep([each.graph for each in built], [clone_inputs(row) for row in inputs])
    after = [copy_graph(each.graph) for each in built]
    for rank, graph in enumerate(after):
        apply(graph, of_rank(rank, replicated=replicated))
    assert_same(run_lockstep(after, inputs), want, 1e-5, "outputs")


def moved(rank: int, summed: bool = True) -> Layers:
    """A value that all ranks share, moved along the tokens by as many as a rank's number."""
    build = Layers()
    streams = []
    for _ in range(2):
        total = build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
        streams.append(norm_of(build, total))
    turned = build.call(aten.roll.default, streams[0], [rank], [0])
    gated = build.call(aten.mul.Tensor, turned, streams[1])
    if summed:
        gated = build.wait(build.call(c10d.all_reduce.default, gated, "sum", "tp"))
    build.output([norm_of(build, gated)])
    return build


@pytest.mark.parametrize("replicated", ["infer", "prove"])
@pytest.mark.parametrize("apply", [spfast.apply, reference.apply])
def test_what_is_summed_is_the_rank_s_own_though_all_of_it_is_proved(
    apply: Callable[..., Any], replicated: Any
) -> None:
    built = [moved(rank) for rank in range(RANKS)]
    inputs = [[spec.make(rank, 8, 0) for spec in built[0].inputs] for rank in range(RANKS)]
    want = run_lockstep([each.graph for each in built], [clone_inputs(row) for row in inputs])
    after = [copy_graph(each.graph) for each in built]
    for rank, graph in enumerate(after):
        apply(graph, of_rank(rank, replicated=replicated))
    assert_same(run_lockstep(after, inputs), want, 1e-5, "outputs")


def test_ranks_compare_how_what_meets_their_rows_is_computed() -> None:
    texts = []
    for rank in (1, 2):
        build = moved(rank, summed=False)
        after = spfast.api.preview(build.graph, of_rank(0))
        assert any(node.target is c10d.reduce_scatter_tensor.default for node in after.nodes)
        texts.append(done_together(after, build.graph))
    assert texts[0] != texts[1]
    assert any("aten.roll" in text for text in texts[0])


def test_ranks_may_cut_their_own_rows() -> None:
    """Of a graph that is sequence-parallel already."""
    texts = []
    for rank in (0, 1):
        build = Layers()
        stream = build.placeholder("stream", (8, 16), torch.float32)
        rows = build.call(aten.slice.Tensor, stream, 0, 2 * rank, 2 * rank + 2)
        mine = build.call(c10d.reduce_scatter_tensor.default, build.partial(), "sum", RANKS, "tp")
        build.output([build.call(aten.add.Tensor, build.wait(mine), rows)])
        texts.append(done_together(build.graph))
    assert texts[0] == texts[1]
    assert any(text.startswith("rows|") for text in texts[0])


def test_what_nobody_sums_is_a_constant_like_any() -> None:
    build = masked(rows_of, 0, reduce_op=None)
    assert int(spfast.apply(build.graph, of_rank(0, replicated="prove"))) == 1


def test_the_verifier_sees_it_by_itself() -> None:
    """Nothing gives the constant away when the site is rewritten; then that is added."""
    told, silent = masked(rows_of, 0, reduce_op=None), masked(rows_of, 0, reduce_op=None)
    config = of_rank(0)
    spfast.apply(silent.graph, config)
    assert spfast.verify(told.graph, silent.graph, config).ok
    for build in (told, silent):
        kept = next(node for node in build.graph.nodes if node.target is aten.eq.Scalar)
        (output,) = build.graph.find_nodes(op="output")
        with build.graph.inserting_before(output):
            shown = build.wait(build.call(c10d.all_reduce.default, kept, "sum", "tp"))
        output.args = ([*output.args[0], shown],)
    found = spfast.verify(told.graph, silent.graph, config)
    assert not found.ok
    assert "cannot be the same on every rank" in found.problems[0].reason


def test_ranks_compare_the_constants_that_their_rows_are_computed_with() -> None:
    texts = []
    for rank in (0, 1):
        build = masked(rows_of, rank, reduce_op=None)
        after = spfast.api.preview(build.graph, of_rank(0))
        texts.append(done_together(after, build.graph))
    assert texts[0] != texts[1]
    same = masked(rows_of, 0, reduce_op=None)
    cut = [spfast.api.preview(same.graph, of_rank(rank)) for rank in (0, 1)]
    assert done_together(cut[0], same.graph) == done_together(cut[1], same.graph)


def test_ranks_compare_the_literals_of_what_is_merged() -> None:
    """A share of one rank's own, of two that are reduced as one."""
    texts = []
    for share in (1.0, 2.0):
        build = Layers()
        one, two = (build.product(build.partial()), build.partial())
        parts = [
            build.wait(build.call(c10d.all_reduce.default, p, "sum", "tp")) for p in (one, two)
        ]
        scaled = build.call(aten.div.Tensor, parts[0], share)
        build.output([build.product(build.call(aten.add.Tensor, scaled, parts[1]))])
        after = spfast.api.preview(build.graph, of_rank(0))
        assert sum(node.target is c10d.all_reduce.default for node in after.nodes) == 1
        texts.append(done_together(after, build.graph))
    assert texts[0] != texts[1]


def test_sizes_are_compared_and_not_what_has_them() -> None:
    """A rank may have an operator more before the value whose size a constant is made with."""
    texts = []
    for more in (False, True):
        build = GraphBuilder(tokens=8, dynamic=True)
        x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
        counted = build.call(aten.relu.default, x) if more else x
        count = build.call(aten.sym_size.int, counted, 0)
        scattered = build.call(c10d.reduce_scatter_tensor.default, x, "sum", RANKS, "tp")
        rows = build.call(c10d.wait_tensor.default, scattered)
        half = build.call(operator.floordiv, count, RANKS)
        places = build.call(aten.arange.default, half)
        build.output(
            [build.call(aten.mul.Tensor, rows, build.call(aten.unsqueeze.default, places, 1))]
        )
        texts.append(done_together(build.graph))
    assert texts[0] == texts[1]
    assert any("aten.arange" in text for text in texts[0])
