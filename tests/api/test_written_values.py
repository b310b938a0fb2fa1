"""What is written to memory shows as much of a value as what is computed from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.testing import copy_graph
from spfast.verifier import verify

from .test_replication import WIDTH, Build, Writer, on_every_rank

aten, c10d = torch.ops.aten, torch.ops._c10d_functional
Write = Callable[[Writer, fx.Node, fx.Node], fx.Node]


def copied(w: Writer, buffer: fx.Node, value: fx.Node) -> fx.Node:
    w.call(aten.copy_.default, buffer, value)
    return buffer


def copied_and_read_by_a_view(w: Writer, buffer: fx.Node, value: fx.Node) -> fx.Node:
    view = w.call(aten.view.default, buffer, [8, WIDTH])
    w.call(aten.copy_.default, buffer, value)
    return view


def copied_into_a_part(w: Writer, buffer: fx.Node, value: fx.Node) -> fx.Node:
    w.call(aten.copy_.default, w.call(aten.slice.Tensor, buffer, 0, 0, 8), value)
    return buffer


def added(w: Writer, buffer: fx.Node, value: fx.Node) -> fx.Node:
    w.call(aten.add_.Tensor, buffer, value)
    return buffer


def copied_and_scaled(w: Writer, buffer: fx.Node, value: fx.Node) -> fx.Node:
    w.call(aten.copy_.default, buffer, value)
    w.call(aten.mul_.Tensor, buffer, 2.0)
    return buffer


def residual_that_is_written(write: Write, reduced: bool = True) -> Build:
    """A residual that is written to a buffer, and the buffer is reduced, or read as it is."""

    def build(w: Writer) -> None:
        mine = w.stream("mine", "per_rank" if reduced else "replicated")
        read = write(w, w.call(aten.zeros.default, [8, WIDTH]), mine)
        total = w.over_ranks(read) if reduced else read
        partial = w.project(w.stream("attention", "per_rank"), "down")
        stream = w.call(aten.add.Tensor, w.over_ranks(partial), mine)
        w.output([w.matched_norm(stream), w.call(aten.relu.default, total)])

    return build


WRITES = [copied, copied_and_read_by_a_view, copied_into_a_part, added, copied_and_scaled]


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("write", WRITES)
def test_what_is_reduced_where_it_was_written_is_a_ranks_own(write: Write, recognise: str) -> None:
    _, results, _ = on_every_rank(residual_that_is_written(write), recognise=recognise)
    assert "mine" not in [each.value for each in results[0].assumptions]


def test_the_reason_names_the_value_and_the_collective() -> None:
    _, results, _ = on_every_rank(residual_that_is_written(copied), recognise="patterns")
    assert (
        "%mine is this rank's own, as %all_reduce_default = _c10d_functional.all_reduce.default "
        "over all ranks shows, and would be read beside shards"
    ) in [each.reason for each in results[0].skipped]


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_and_never_reduced_is_unknown(write: Write) -> None:
    _, results, _ = on_every_rank(residual_that_is_written(write, reduced=False))
    assert int(results[0]) == 1
    assert [each.value for each in results[0].assumptions] == ["mine"]


def test_what_is_read_where_a_shard_was_written_is_a_ranks_own() -> None:
    def build(w: Writer) -> None:
        rows = w.call(
            c10d.all_to_all_single.default, w.stream("sent", "per_rank"), [2] * 4, [2] * 4, "0"
        )
        buffer = w.call(aten.zeros.default, [8, WIDTH])
        w.call(aten.copy_.default, buffer, w.call(c10d.wait_tensor.default, rows))
        read = w.call(aten.relu.default, buffer)
        partial = w.project(w.stream("attention", "per_rank"), "down")
        w.output([w.matched_norm(w.call(aten.add.Tensor, w.over_ranks(partial), read))])

    _, results, _ = on_every_rank(build)
    assert int(results[0]) == 0


@pytest.mark.parametrize("write", WRITES)
def test_the_verifier_finds_it_by_itself(write: Write) -> None:
    writer = Writer()
    residual_that_is_written(write)(writer)
    graph = copy_graph(writer.graph)
    everything = SequenceParallelConfig(tp_size=4, tp_rank=0, replicated=lambda node: True)
    assert int(spfast.apply(graph, everything)) > 0
    found = verify(writer.graph, graph, SequenceParallelConfig(tp_size=4, tp_rank=0))
    assert any("'mine' cannot be the same on every rank" in each.reason for each in found.problems)


def vouched_for_and_written(write: Write, by: str) -> Build:
    """An input that is said to be the same on every rank, and is then written over."""

    def build(w: Writer) -> None:
        read = write(w, w.stream("cache"), w.stream("value", by))
        partial = w.project(w.stream("attention", "per_rank"), "down")
        computed = w.call(aten.relu.default, read)
        w.output([w.matched_norm(w.call(aten.add.Tensor, w.over_ranks(partial), computed))])

    return build


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("write", WRITES)
def test_what_is_said_of_an_input_holds_until_it_is_written_over(
    write: Write, recognise: str
) -> None:
    _, results, _ = on_every_rank(
        vouched_for_and_written(write, "per_rank"), recognise=recognise, replicated=("cache",)
    )
    assert [each.reason for each in results[0].skipped] == [
        "%relu_default is not proved to be the same on every rank, and config.replicated does not "
        "let it be taken on trust"
    ]


@pytest.mark.parametrize("write", [copied, added, copied_and_scaled])
def test_what_is_written_over_by_what_all_ranks_share_is_shared(write: Write) -> None:
    build = vouched_for_and_written(write, "replicated")
    _, results, _ = on_every_rank(build, replicated=("cache", "value"))
    assert int(results[0]) == 1


def carried_over(by: str, reduced: bool = True) -> Build:
    """A state that is read first, and left with another value for the next call."""

    def build(w: Writer) -> None:
        state, update = w.stream("state"), w.stream("update", by)
        partial = w.project(w.stream("attention", "per_rank"), "down")
        stream = w.call(aten.add.Tensor, w.over_ranks(partial), state)
        total = w.over_ranks(update) if reduced else update
        w.call(aten.copy_.default, state, update)
        w.output([w.matched_norm(stream), w.call(aten.relu.default, total)])

    return build


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
def test_what_is_left_with_a_ranks_own_value_came_with_one(recognise: str) -> None:
    _, results, _ = on_every_rank(carried_over("per_rank"), recognise=recognise)
    assert not results[0].assumptions
    assert (
        "%state is this rank's own, as %all_reduce_default_1 = "
        "_c10d_functional.all_reduce.default over all ranks shows, and would be read beside shards"
    ) in [each.reason for each in results[0].skipped]


def test_what_is_left_with_a_value_that_may_be_shared_is_assumed() -> None:
    _, results, _ = on_every_rank(carried_over("replicated", reduced=False))
    assert [each.value for each in results[0].assumptions] == ["state"]


def reduced_where_it_lies(writes_later: bool) -> Build:
    """A sum in place in an input, where it has to stay, and what is computed of it."""

    def build(w: Writer) -> None:
        buffer = w.stream("buffer", "per_rank")
        summed = w.call(c10d.all_reduce_.default, buffer, "sum", "0")
        total = w.call(c10d.wait_tensor.default, summed)
        if writes_later:
            w.call(aten.add_.Tensor, buffer, w.stream("more", "per_rank"))
        read = w.call(aten.relu.default, total)
        partial = w.project(w.stream("attention", "per_rank"), "down")
        w.output([w.matched_norm(w.call(aten.add.Tensor, w.over_ranks(partial), read))])

    return build


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("writes_later", [False, True])
def test_what_is_computed_of_a_sum_in_place_is_shared_until_its_memory_is_written_to(
    writes_later: bool, recognise: str
) -> None:
    _, results, _ = on_every_rank(
        reduced_where_it_lies(writes_later), recognise=recognise, replicated="prove"
    )
    assert int(results[0]) == (0 if writes_later else 1)


def test_a_sum_in_place_that_stays_bears_no_blame() -> None:
    """Else the other addend would, once the sum is a plain one: a second run would do more."""

    def build(w: Writer) -> None:
        part = w.stream("attention", "per_rank")
        stream = w.call(aten.add.Tensor, w.over_ranks(part), w.stream("residual"))
        buffer = w.call(aten.clone.default, w.stream("other", "per_rank"))
        summed = w.call(c10d.all_reduce_.default, buffer, "sum", "0")
        total = w.call(c10d.wait_tensor.default, summed)
        w.call(aten.copy_.default, part, w.call(aten.add.Tensor, stream, total))
        w.output([w.over_ranks(part)])

    graphs, _, _ = on_every_rank(build)
    config = SequenceParallelConfig(tp_size=4, tp_rank=0)
    assert int(spfast.apply(graphs[0], config)) == 0
