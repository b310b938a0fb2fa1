"""The rewrite moves no more than the graph did, and no more than either recogniser alone would."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.testing import copy_graph

from .test_replication import Writer, collectives, on_every_rank

aten = torch.ops.aten
Build = Callable[[Writer], None]


def partial(w: Writer, name: str) -> fx.Node:
    return w.stream(name, "per_rank")


def sum_and_norm_of_two(w: Writer) -> None:
    """Two reductions that do not merge; their sum is returned in full, and so is its norm."""
    total = w.call(
        aten.add.Tensor,
        w.over_ranks(partial(w, "a")),
        w.over_ranks(partial(w, "b"), "avg"),
    )
    w.output([w.matched_norm(total), total])


def read_on_after_the_norm(w: Writer) -> None:
    total = w.call(
        aten.add.Tensor,
        w.over_ranks(partial(w, "a")),
        w.over_ranks(partial(w, "b"), "avg"),
    )
    w.output([w.call(aten.relu.default, w.matched_norm(total)), total])


def two_readers_that_are_gathered(w: Writer) -> None:
    """The sum of two is gathered for less than its norm and what another reader makes of it."""
    total = w.call(
        aten.add.Tensor,
        w.over_ranks(partial(w, "a")),
        w.over_ranks(partial(w, "b"), "avg"),
    )
    w.output([w.matched_norm(total), w.call(aten.relu.default, total)])


def norm_that_is_a_part_of_a_tuple(w: Writer) -> None:
    total = w.call(
        aten.add.Tensor,
        w.over_ranks(partial(w, "a")),
        w.over_ranks(partial(w, "b"), "avg"),
    )
    gain = w.placeholder("gain", (16,), torch.float32)
    both = w.call(aten._fused_rms_norm.default, total, [16], gain, 1e-6)
    w.output([w.call(operator.getitem, both, 0), total])


@pytest.mark.parametrize(
    "build",
    [
        sum_and_norm_of_two,
        read_on_after_the_norm,
        two_readers_that_are_gathered,
        norm_that_is_a_part_of_a_tuple,
    ],
)
def test_a_matched_site_gives_way_where_its_stream_is_gathered_anyway(build: Build) -> None:
    after = {}
    for recognise in ("both", "rowwise", "patterns"):
        graphs, _, _ = on_every_rank(build, recognise=recognise)
        after[recognise] = collectives(graphs[0])
    assert after["both"] == after["rowwise"]
    assert after["both"].count("all_gather_into_tensor") == 1
    assert after["patterns"].count("all_gather_into_tensor") == 2


def test_a_matched_site_stays_where_only_its_norm_is_read() -> None:
    def build(w: Writer) -> None:
        total = w.call(
            aten.add.Tensor,
            w.over_ranks(partial(w, "a")),
            w.over_ranks(partial(w, "b"), "avg"),
        )
        w.output([w.matched_norm(total)])

    _, results, _ = on_every_rank(build)
    assert "middle_all_reduce_rms_norm" in str(results[0])


def test_what_is_gathered_anyway_is_summed_in_full() -> None:
    def build(w: Writer) -> None:
        reduced = w.over_ranks(partial(w, "a"))
        w.output([w.call(aten.sum.dim_IntList, reduced, [0], True), reduced])

    graphs, _, before = on_every_rank(build)
    assert collectives(graphs[0]) == collectives(before)


def test_what_nobody_needs_in_full_is_summed_in_parts() -> None:
    def build(w: Writer) -> None:
        reduced = w.over_ranks(partial(w, "a"))
        scaled = w.call(aten.mul.Tensor, reduced, 0.5)
        w.output([w.call(aten.sum.dim_IntList, scaled, [0], True)])

    graphs, _, _ = on_every_rank(build)
    assert collectives(graphs[0]) == ["reduce_scatter_tensor", "all_reduce"]


def test_shards_that_lie_otherwise_than_the_full_values_are_merged() -> None:
    """The sum of two reductions and a transposed residual: as shards all of it is dense."""

    def build(w: Writer) -> None:
        def stream(name: str) -> fx.Node:
            return w.placeholder(name, (2, 4, 16), torch.float32, kind="per_rank")

        residual = w.placeholder("residual", (2, 16, 4), torch.float32)
        turned = w.call(aten.transpose.int, residual, 1, 2)
        first = w.call(aten.add.Tensor, w.over_ranks(stream("a")), turned)
        w.output([w.call(aten.add.Tensor, first, w.over_ranks(stream("b")))])

    graphs, _, _ = on_every_rank(build)
    again = copy_graph(graphs[0])
    second = spfast.apply(again, SequenceParallelConfig(tp_size=4, tp_rank=0))
    assert not int(second) and not second.merged
