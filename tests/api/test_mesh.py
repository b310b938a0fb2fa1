"""Collectives over several groups of a mesh: what each leaves alike, apart, or gives away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.testing._internal.distributed.fake_pg import FakeStore

import spfast
from spfast import reference
from spfast.ranks.groups import lies_across, resolve_groups
from spfast.testing import assert_same, clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
ROWS, WIDTH = 8, 16
Made = Callable[["Mesh", fx.Node], fx.Node]

# All ranks in one group, with two groups of two within it.
NESTED = {"tp": [[0, 1, 2, 3]], "inner": [[0, 1], [2, 3]], "odd": [[0, 2], [1, 3]]}
# Two axes, and all.
AXES = {"tp": [[0, 1], [2, 3]], "cp": [[0, 2], [1, 3]], "all": [[0, 1, 2, 3]]}


class Mesh(GraphBuilder):
    """A graph under construction over several groups."""

    def __init__(self) -> None:
        super().__init__(tokens=ROWS, dynamic=False)
        self.part = self.own("part")

    def own(self, name: str) -> fx.Node:
        return self.placeholder(name, (TOKENS, WIDTH), torch.float64, kind="per_rank")

    def wait(self, op: Any, *args: Any) -> fx.Node:
        return self.call(c10d.wait_tensor.default, self.call(op, *args))

    def reduce(self, x: fx.Node, group: str, op: str = "sum") -> fx.Node:
        return self.wait(c10d.all_reduce.default, x, op, group)

    def gather(self, x: fx.Node, size: int, group: str) -> fx.Node:
        return self.wait(c10d.all_gather_into_tensor.default, x, size, group)

    def scatter(self, x: fx.Node, size: int, group: str) -> fx.Node:
        return self.wait(c10d.reduce_scatter_tensor.default, x, "sum", size, group)

    def exchange(self, x: fx.Node, group: str) -> fx.Node:
        half = [ROWS // 2] * 2
        return self.wait(c10d.all_to_all_single.default, x, half, half, group)

    def twice(self, half: fx.Node) -> fx.Node:
        return self.call(aten.cat.default, [half, half])

    def normed(self, residual: fx.Node, *more: fx.Node) -> Mesh:
        """The site: a reduced value and a residual, normed; returns what more is given, too."""
        total = self.call(aten.add.Tensor, self.reduce(self.part, "tp"), residual)
        square = self.call(aten.mean.dim, self.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
        scale = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, square, 1e-6))
        self.output([self.call(aten.mul.Tensor, total, scale), *more])
        return self

    def site(self) -> str:
        """The name of the site's all_reduce."""
        all_reduces = self.graph.find_nodes(op="call_function", target=c10d.all_reduce.default)
        return next(str(each.name) for each in all_reduces if each.args[0] is self.part)


def config_of(mesh: dict[str, list[list[int]]], rank: int) -> spfast.SequenceParallelConfig:
    groups = {}
    for name, parts in mesh.items():
        here = next(part for part in parts if rank in part)
        groups[name] = (len(here), here.index(rank))
    return spfast.SequenceParallelConfig(groups=groups)


def why_left(build: Mesh, mesh: dict[str, list[list[int]]]) -> str:
    """Why the site stays on all ranks; "" where it is rewritten, and right and proved."""
    after, said = [], set()
    for rank in range(4):
        graph, again = copy_graph(build.graph), copy_graph(build.graph)
        config = config_of(mesh, rank)
        result = spfast.apply(graph, config)
        said.add(next((s.reason for s in result.skipped if s.node == build.site()), ""))
        slow = reference.apply(again, config)
        assert bool(said - {""}) == (build.site() in [s.node for s in slow.skipped])
        assert spfast.verify(build.graph, graph, config).ok
        assert int(spfast.apply(copy_graph(graph), config)) == 0
        after.append(graph)
    (reason,) = said
    inputs = [[spec.make(rank, ROWS, seed=0) for spec in build.inputs] for rank in range(4)]
    expected = run_lockstep([build.graph] * 4, [clone_inputs(row) for row in inputs], mesh)
    found = run_lockstep(after, [clone_inputs(row) for row in inputs], mesh)
    assert_same(found, expected, 1e-9, "outputs")
    return reason


WITHIN: dict[str, Made] = {
    "scattered": lambda b, x: b.twice(b.scatter(x, 2, "inner")),
    "exchanged": lambda b, x: b.exchange(x, "inner"),
    "scattered, then gathered over another": lambda b, x: b.gather(
        b.scatter(x, 2, "inner"), 2, "odd"
    ),
    "scattered, then summed over another": lambda b, x: b.reduce(
        b.twice(b.scatter(x, 2, "inner")), "odd"
    ),
}


@pytest.mark.parametrize("made", WITHIN)
def test_what_a_collective_within_the_group_gives_each_rank_is_never_cut(made: str) -> None:
    build = Mesh()
    build.normed(WITHIN[made](build, build.reduce(build.own("x"), "tp")))
    assert "gives each rank another one" in why_left(build, NESTED)


def test_a_group_of_which_nothing_is_known_may_lie_anywhere() -> None:
    build = Mesh()
    build.normed(build.exchange(build.reduce(build.own("x"), "tp"), "inner"))
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1)
    for apply in (spfast.apply, reference.apply):
        result = apply(copy_graph(build.graph), config)
        assert build.site() in [skipped.node for skipped in result.skipped]


def test_an_all_reduce_in_three_steps_leaves_all_alike() -> None:
    build = Mesh()
    part = build.scatter(build.own("x"), 2, "inner")
    build.normed(build.gather(build.reduce(part, "odd"), 2, "inner"))
    assert why_left(build, NESTED) == ""


def test_what_another_axis_exchanges_is_as_alike_as_before() -> None:
    build = Mesh()
    build.normed(build.exchange(build.reduce(build.own("x"), "tp"), "cp"))
    assert why_left(build, AXES) == ""
    build = Mesh()
    own = build.own("x")
    build.normed(build.exchange(own, "cp"), build.reduce(own, "tp"))
    assert "over all ranks shows" in why_left(build, AXES)


@pytest.mark.parametrize("rank", range(4))
def test_what_another_axis_scatters_is_cut_like_any_value(rank: int) -> None:
    build = Mesh()
    wide = build.placeholder("wide", (2 * ROWS, WIDTH), torch.float64)
    build.normed(build.scatter(wide, 2, "cp"))
    config = config_of(AXES, rank)
    graph = copy_graph(build.graph)
    assert int(spfast.apply(graph, dataclasses.replace(config, validate=True))) == 1
    cut = next(
        node for node in graph.nodes if node.target is aten.slice.Tensor and node.args[1] == 0
    )
    first = (rank % 2) * ROWS // 2
    assert cut.args[2:] == (first, first + ROWS // 2)
    cut.args = (cut.args[0], 0, ROWS // 2 - first, ROWS - first)
    assert not spfast.verify(build.graph, graph, config).ok


def test_a_scatter_over_another_axis_that_is_not_the_same_is_not_proved() -> None:
    build = Mesh()
    wide, other = (
        build.placeholder(name, (2 * ROWS, WIDTH), torch.float64) for name in ("wide", "other")
    )
    build.normed(build.scatter(wide, 2, "cp"), other)
    graph = copy_graph(build.graph)
    config = config_of(AXES, 1)
    assert int(spfast.apply(graph, config)) == 1
    scatters = graph.find_nodes(op="call_function", target=c10d.reduce_scatter_tensor.default)
    scatter = next(node for node in scatters if node.args[3] == "cp")
    by_name = {node.name: node for node in graph.nodes}
    scatter.args = (by_name["other"], *scatter.args[1:])
    assert not spfast.verify(build.graph, graph, config).ok


THROUGH: dict[str, Made] = {
    "a sum": lambda b, x: b.reduce(b.reduce(x, "cp"), "tp"),
    "the sum of a total": lambda b, x: b.reduce(b.reduce(b.call(aten.sum.default, x), "cp"), "tp"),
    "a gather": lambda b, x: b.reduce(b.gather(x, 2, "cp"), "tp"),
    "a scatter": lambda b, x: b.reduce(b.scatter(x, 2, "cp"), "tp"),
    "an exchange": lambda b, x: b.reduce(b.exchange(x, "cp"), "tp"),
    "a scatter and a gather": lambda b, x: b.reduce(
        b.gather(b.call(aten.relu.default, b.scatter(x, 2, "cp")), 2, "cp"), "tp"
    ),
}


@pytest.mark.parametrize("seen", THROUGH)
def test_a_value_is_given_away_through_collectives_over_another_axis(seen: str) -> None:
    build = Mesh()
    own = build.own("x")
    build.normed(own, THROUGH[seen](build, own))
    assert why_left(build, AXES).startswith("%x is this rank's own, as %all_reduce")


@pytest.mark.parametrize("seen", THROUGH)
def test_the_verifier_sees_it_there_too(seen: str) -> None:
    told, silent = Mesh(), Mesh()
    own = told.own("x")
    told.normed(own, THROUGH[seen](told, own))
    # Nothing gives it away when the site is rewritten; then that is added.
    own = silent.own("x")
    silent.normed(own)
    config = config_of(AXES, 1)
    assert int(spfast.apply(silent.graph, config)) == 1
    (output,) = silent.graph.find_nodes(op="output")
    with silent.graph.inserting_before(output):
        shown = THROUGH[seen](silent, own)
    output.args = ([*output.args[0], shown],)
    (problem, *_) = spfast.verify(told.graph, silent.graph, config).problems
    assert "'x' cannot be the same on every rank" in problem.reason


def test_what_differs_on_one_axis_may_be_alike_on_another() -> None:
    build = Mesh()
    x = build.placeholder("x", (TOKENS, WIDTH), torch.float64)
    top = build.call(aten.amax.default, x, [0])
    build.normed(x, build.reduce(top, "cp"), build.reduce(build.own("z"), "all"))
    assert why_left(build, AXES) == ""


def test_which_groups_cross() -> None:
    sizes = {"tp": (4, 0), "cp": (2, 0), "dp": (3, 0), "one": (1, 0)}
    config = spfast.SequenceParallelConfig(groups=sizes)
    tp, cp, unknown = resolve_groups(["tp", "cp"], config, ["unknown"])
    assert (tp.crosses, cp.crosses, unknown.crosses) == ((), (), ())
    assert lies_across("tp", "dp", config) and lies_across("one", "tp", config)
    wide = spfast.SequenceParallelConfig(groups={**sizes, "all": (8, 0)})
    assert lies_across("tp", "cp", wide) and not lies_across("tp", "all", wide)
    assert not lies_across("tp", "cp", None)


def test_ranks_say_which_groups_cross() -> None:
    import torch.distributed as dist

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    try:
        parts = ([0, 1], [0, 2, 4, 6], [0, 1, 2, 3])
        one, two, wide = (dist.new_group(each).group_name for each in parts)
        assert lies_across(one, two, None)
        assert not lies_across(one, wide, None) and not lies_across(two, wide, None)
    finally:
        dist.destroy_process_group()
