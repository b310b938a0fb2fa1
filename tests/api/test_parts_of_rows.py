"""Each rank takes the features that its rows of a weight are for, by literals of its own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from api.layers import RANKS, Layers, aten, of_rank
from api.test_literals import norm_of
from torch import fx

import spfast
from spfast import reference
from spfast.testing import assert_same, clone_inputs, copy_graph, run_lockstep

c10d = torch.ops._c10d_functional
WIDTH = 16 // RANKS
Part = Callable[[Layers, fx.Node, int], fx.Node]


def sliced(b: Layers, h: fx.Node, rank: int) -> fx.Node:
    return b.call(aten.slice.Tensor, h, 1, rank * WIDTH, (rank + 1) * WIDTH)


def split(b: Layers, h: fx.Node, rank: int) -> fx.Node:
    return b.call(operator.getitem, b.call(aten.split.Tensor, h, WIDTH, 1), rank)


def selected(b: Layers, h: fx.Node, rank: int) -> fx.Node:
    heads = b.call(aten.view.default, h, [8, RANKS, WIDTH])
    return b.call(aten.select.int, heads, 1, rank)


def gathered(b: Layers, h: fx.Node, rank: int) -> fx.Node:
    places = b.call(aten.arange.start, rank * WIDTH, (rank + 1) * WIDTH)
    index = b.call(aten.expand.default, b.call(aten.unsqueeze.default, places, 0), [8, WIDTH])
    return b.call(aten.gather.default, h, 1, index)


def split_in_full(b: Layers, h: fx.Node, rank: int) -> fx.Node:
    """As tracing leaves it, before what nobody reads is taken away."""
    parts = b.call(aten.split.Tensor, h, WIDTH, 1)
    return [b.call(operator.getitem, parts, place) for place in range(RANKS)][rank]


PARTS = [sliced, split, selected, gathered, split_in_full]


def layer(
    part: Part,
    rank: int,
    *,
    is_summed: bool = True,
    all_parts: bool = False,
    beside: bool = False,
) -> Layers:
    """A linear layer whose input is not split yet, between two norms.

    All parts may be read for it, and all others beside it.
    """
    build = Layers()
    total = build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
    normed = norm_of(build, total)
    taken = part(build, normed, rank)
    if all_parts:
        others = [part(build, normed, other) for other in range(RANKS) if other != rank]
        taken = functools.reduce(functools.partial(build.call, aten.add.Tensor), others, taken)
    kind = "per_rank" if is_summed else "replicated"
    weight = build.placeholder("weight", (WIDTH, 16), torch.float32, kind=kind)
    out = build.call(aten.mm.default, taken, weight)
    if is_summed:
        out = build.wait(build.call(c10d.all_reduce.default, out, "sum", "tp"))
        out = build.call(aten.add.Tensor, out, total)
    outputs = [norm_of(build, out)]
    if beside:
        halves = [build.call(aten.slice.Tensor, normed, 1, *half) for half in ((8, 16), (0, 8))]
        outputs.append(build.call(aten.cat.default, halves, -1))
    build.output(outputs)
    return build


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("apply", [spfast.apply, reference.apply])
def test_each_rank_keeps_the_part_that_it_takes(
    part: Part, apply: Callable[..., Any], beside: bool
) -> None:
    built = [layer(part, rank, beside=beside) for rank in range(RANKS)]
    inputs = [[spec.make(rank, 8, 0) for spec in built[0].inputs] for rank in range(RANKS)]
    want = run_lockstep([each.graph for each in built], [clone_inputs(row) for row in inputs])
    after = [copy_graph(each.graph) for each in built]
    for rank, graph in enumerate(after):
        apply(graph, of_rank(rank))
        assert spfast.verify(built[rank].graph, graph, of_rank(rank)).ok
    assert_same(run_lockstep(after, inputs), want, 1e-4, "outputs")


@pytest.mark.parametrize("part", [sliced, split, selected])
def test_the_site_is_rewritten_and_the_part_is_taken_of_full_rows(part: Part) -> None:
    build = layer(part, 1)
    result = spfast.apply(build.graph, of_rank(1))
    assert int(result) == 2
    (taken,) = (
        node
        for node in build.graph.nodes
        if node.target in (aten.slice.Tensor, operator.getitem, aten.select.int)
        and node.meta["val"].shape[-1] == WIDTH
        and node.args[1] != 0
    )
    assert taken.meta["val"].shape == (8, WIDTH)


def test_a_part_that_nobody_sums_is_as_good_as_any() -> None:
    """Nor is one of several: what is summed of a value in all parts, all ranks read alike."""
    for build in (
        layer(sliced, 0, is_summed=False),
        layer(sliced, 0, all_parts=True),
    ):
        spfast.apply(build.graph, of_rank(0))
        widths = {
            node.meta["val"].shape[0]
            for node in build.graph.nodes
            if node.target is aten.slice.Tensor and node.args[1] == 1
        }
        assert widths == {8 // RANKS}


@pytest.mark.parametrize("part", [sliced, split, split_in_full])
def test_the_verifier_sees_it_by_itself(part: Part) -> None:
    before, after = layer(part, 0), Layers()
    rows = after.call(c10d.reduce_scatter_tensor.default, after.partial(), "sum", RANKS, "tp")
    normed = norm_of(after, after.wait(rows))
    taken = after.call(aten.mul.Tensor, part(after, normed, 0), 1.0)
    full = after.wait(after.call(c10d.all_gather_into_tensor.default, taken, RANKS, "tp"))
    weight = after.placeholder("weight", (WIDTH, 16), torch.float32, kind="per_rank")
    out = after.call(aten.mm.default, full, weight)
    after.output([after.wait(after.call(c10d.all_reduce.default, out, "sum", "tp"))])
    reasons = {
        p.node: p.reason for p in spfast.verify(before.graph, after.graph, of_rank(0)).problems
    }
    name = "slice_tensor" if part is sliced else "split_tensor"
    assert reasons[name] == (
        f"holds one rank's rows of {name!r}, but each rank takes another part of every row: "
        "'all_reduce_default_1' would else be for nothing"
    )
