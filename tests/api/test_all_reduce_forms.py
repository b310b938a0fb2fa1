"""Every all_reduce has a line: in place, of several tensors, raw, wrapped, unknown."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.distributed.fake_pg import FakeStore

import spfast
from spfast.patterns import Registry
from spfast.testing import clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
RANKS = 4
LIBRARY = torch.library.Library("spfast_forms", "FRAGMENT")
LIBRARY.define("shm_allreduce(int handle, Tensor(a!) data) -> ()")
LIBRARY.define("all_reduce_max(Tensor x) -> Tensor")
LIBRARY.impl("shm_allreduce", lambda handle, data: None, "Meta")
LIBRARY.impl("all_reduce_max", torch.empty_like, "Meta")


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


# --- in place -------------------------------------------------------------------------------------


def in_place(build: Layers, x: fx.Node) -> fx.Node:
    return build.wait(build.call(c10d.all_reduce_.default, x, "sum", "tp"))


def test_in_place_is_rewritten_where_nobody_else_sees_it() -> None:
    build = Layers()
    build.output([build.norm(in_place(build, build.partial()))])
    results = run_as(build, build)
    assert [int(result) for result in results] == [1] * RANKS
    assert results[0].skipped == ()
    spfast.apply(build.graph, of_rank(0))
    assert targets(build.graph) == [
        "_c10d_functional.reduce_scatter_tensor.default",
        "_c10d_functional.wait_tensor.default",
        "_c10d_functional.all_gather_into_tensor.default",
        "_c10d_functional.wait_tensor.default",
    ]


def test_in_place_may_be_read_before_it_happens() -> None:
    build = Layers()
    partial = build.partial()
    early = build.product(build.call(aten.view.default, partial, [8, 16]))
    build.output([build.norm(in_place(build, partial)), early])
    assert [int(result) for result in run_as(build, build)] == [1] * RANKS


def _input(build: Layers) -> list[fx.Node]:
    return [build.norm(in_place(build, build.x))]


def _view_of_input(build: Layers) -> list[fx.Node]:
    return [build.norm(in_place(build, build.call(aten.view.default, build.x, [8, 16])))]


def _returned(build: Layers) -> list[fx.Node]:
    partial = build.partial()
    return [build.norm(in_place(build, partial)), partial]


def _read_by_a_view(build: Layers) -> list[fx.Node]:
    partial = build.partial()
    view = build.call(aten.view.default, partial, [16, 8])
    normed = build.norm(in_place(build, partial))
    return [normed, build.call(aten.abs.default, view)]


def _read_through_a_base(build: Layers) -> list[fx.Node]:
    partial = build.partial()
    both = build.call(aten.cat.default, [partial, partial], 0)
    half = build.call(aten.slice.Tensor, both, 0, 0, 8)
    normed = build.norm(in_place(build, half))
    return [normed, build.call(aten.abs.default, both)]


def _sum_of_an_input(build: Layers) -> list[fx.Node]:
    # Where a rank has no such sum, the input itself is written to.
    return [build.norm(in_place(build, build.call(aten.mul.Tensor, build.x, build.x)))]


def _waited_for_by_its_operand(build: Layers) -> list[fx.Node]:
    partial = build.partial()
    build.call(c10d.all_reduce_.default, partial, "sum", "tp")
    return [build.norm(build.wait(partial))]


SEEN: list[tuple[Callable[[Layers], list[fx.Node]], str]] = [
    (_input, "it writes to %x, which is an input of the graph"),
    (_view_of_input, "it writes to %x, which is an input of the graph"),
    (_returned, "it writes to memory of %mm_default, which %output reads afterwards"),
    (_read_by_a_view, "it writes to memory of %view_default, which %abs_default reads afterwards"),
    (
        _read_through_a_base,
        "it writes to memory of %cat_default, which %abs_default reads afterwards",
    ),
    (_sum_of_an_input, "it writes to %x, which is an input of the graph"),
    (
        _waited_for_by_its_operand,
        "it writes to memory of %mm_default, which %wait_tensor_default reads afterwards",
    ),
]


@pytest.mark.parametrize(("outputs", "reason"), SEEN)
def test_in_place_stays_where_somebody_else_sees_it(
    outputs: Callable[[Layers], list[fx.Node]], reason: str
) -> None:
    build = Layers()
    build.output(outputs(build))
    assert reasons(build.graph) == {"all_reduce__default": reason}


def test_in_place_that_stays_is_a_write_to_all_others() -> None:
    # The copy holds what the all_reduce overwrites: nobody may read the one for the other.
    build = Layers()
    first = build.norm(
        build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
    )
    copy = build.call(aten.clone.default, first)
    second = in_place(build, copy)
    build.output([build.product(first), build.product(second)])
    (result, *_) = run_as(build, build)
    left = {site.node: site.reason for site in result.skipped}
    assert left["all_reduce__default"] == (
        "no rule matches what reads it, and %mm_default_2 = aten.mm.default reads it and needs all "
        "tokens"
    )


# --- of several tensors ---------------------------------------------------------------------------

COALESCED = [c10d.all_reduce_coalesced.default, c10d.all_reduce_coalesced_.default]


def two(operator_: Any | None, largest: bool = True) -> Layers:
    """Two sums, normed: a number a token of each is returned, or the whole norm."""
    build = Layers()
    first, second = build.partial(), build.product(build.partial())
    if operator_ is None:
        sums = [
            build.wait(build.call(c10d.all_reduce.default, x, "sum", "tp")) for x in (first, second)
        ]
    else:
        sums = build.several(operator_, first, second)
    normed = [build.norm(each) for each in sums]
    build.output([build.largest(each) for each in normed] if largest else normed)
    return build


@pytest.mark.parametrize("operator_", COALESCED)
def test_each_tensor_of_a_coalesced_one_is_rewritten(operator_: Any) -> None:
    build = two(operator_)
    results = run_as(two(None), build)
    assert [int(result) for result in results] == [2] * RANKS
    explanation = spfast.explain(build.graph, of_rank(0))
    assert [entry.node for entry in explanation.entries] == ["getitem", "getitem_1"]
    spfast.apply(build.graph, of_rank(0))
    assert not [name for name in targets(build.graph) if "all_reduce" in name]


# Collectives that are said to cost nothing are not made for nothing either.
@pytest.mark.parametrize("fields", [{}, {"collective_cost": 0}], ids=["", "free"])
@pytest.mark.parametrize("operator_", COALESCED)
def test_one_call_of_several_stays_where_more_calls_would_move_the_same(
    operator_: Any, fields: dict[str, Any]
) -> None:
    said = reasons(two(operator_, largest=False).graph, **fields)
    assert (
        list(said.values())
        == [
            "gathering what is computed from it would move more bytes than its all_reduce does, "
            "or as many in more collectives"
        ]
        * 2
    )


@pytest.mark.parametrize("operator_", COALESCED)
def test_a_coalesced_one_is_rewritten_whole_or_not_at_all(operator_: Any) -> None:
    build = Layers()
    first, second = build.several(operator_, build.partial(), build.product(build.partial()))
    build.output([build.largest(build.norm(first)), build.product(second)])
    assert reasons(build.graph) == {
        "getitem": "it is reduced in one call with %getitem_1, which stays",
        "getitem_1": "no rule matches what reads it, and %mm_default_3 = aten.mm.default reads it "
        "and needs all tokens",
    }


def test_a_tensor_that_nobody_takes_holds_nothing_up() -> None:
    build = Layers()
    started = build.call(
        c10d.all_reduce_coalesced.default, [build.weight, build.partial()], "sum", "tp"
    )
    build.output([build.norm(build.wait(build.call(operator.getitem, started, 1)))])
    assert int(spfast.apply(build.graph, of_rank(0))) == 1
    assert not [name for name in targets(build.graph) if "all_reduce" in name]


def test_a_list_that_is_read_whole_stays() -> None:
    build = Layers()
    started = build.call(c10d.all_reduce_coalesced.default, [build.partial()], "sum", "tp")
    taken = build.call(operator.getitem, started, 0)
    build.output([build.norm(build.wait(taken)), started])
    assert reasons(build.graph) == {
        "all_reduce_coalesced_default": "%output reads its list of results whole"
    }


def test_a_result_that_is_taken_twice_stays() -> None:
    build = Layers()
    started = build.call(c10d.all_reduce_coalesced.default, [build.partial()], "sum", "tp")
    sums = [build.wait(build.call(operator.getitem, started, 0)) for _ in range(2)]
    build.output([build.norm(each) for each in sums])
    assert reasons(build.graph) == {
        "all_reduce_coalesced_default": "%getitem_1 takes a result that another node has taken"
    }


def test_in_place_of_several_stays_where_one_is_seen() -> None:
    build = Layers()
    first, second = build.partial(), build.product(build.partial())
    sums = build.several(c10d.all_reduce_coalesced_.default, first, second)
    build.output([*map(build.norm, sums), second])
    assert reasons(build.graph) == {
        "all_reduce_coalesced__default": "it writes to memory of %mm_default_2, "
        "which %output reads afterwards"
    }


# --- others ---------------------------------------------------------------------------------------


def test_arguments_by_name_stay() -> None:
    build = Layers()
    started = build.graph.call_function(
        c10d.all_reduce_.default,
        kwargs={"input": build.partial(), "reduce_op": "sum", "group_name": "tp"},
    )
    started.meta["val"] = build.x.meta["val"]
    build.output([build.norm(build.wait(started))])
    assert reasons(build.graph) == {
        "all_reduce__default": "its tensor, its group or its reduce op is not given by position"
    }


def test_raw_c10d_has_a_line_and_is_a_write() -> None:
    dist.init_process_group("fake", rank=1, world_size=RANKS, store=FakeStore())
    try:

        def model(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
            dist.all_reduce(x)
            total = x + residual
            return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)

        module = make_fx(model, tracing_mode="fake")(torch.randn(8, 16), torch.randn(8, 16))
    finally:
        dist.destroy_process_group()
    (found,) = reasons(module.graph).values()
    assert found == (
        "c10d.allreduce_.default writes to its tensors through a process group object: "
        "only functional collectives are rewritten"
    )
    # Its schema does not say that it writes.
    call = next(node for node in module.graph.nodes if "allreduce_" in str(node.target))
    assert "!" not in str(call.target._schema)


def with_raw(early: bool) -> Layers:
    """A raw all_reduce of a reduced value, which is normed; another reads it early or late."""
    build = Layers()
    reduced = build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
    read = build.call(aten.abs.default, reduced) if early else None
    raw = torch.ops.c10d.allreduce_.default
    started = build.graph.call_function(raw, ([reduced], None, None, None))
    started.meta["val"] = (reduced.meta["val"].clone(), None)
    build.output([build.norm(reduced), read or build.call(aten.abs.default, reduced)])
    return build


def test_no_site_reaches_over_a_raw_collective() -> None:
    said = reasons(with_raw(early=False).graph)
    assert list(said) == ["all_reduce_default", "allreduce__default"]
    assert said["all_reduce_default"] == (
        "%allreduce__default = c10d.allreduce_.default writes to memory or changes the stream "
        "between the all_reduce and the end of the site"
    )


def test_the_verifier_knows_that_a_raw_collective_writes() -> None:
    late = with_raw(early=False).graph
    assert spfast.verify(late, with_raw(early=False).graph, of_rank(1)).ok
    assert not spfast.verify(late, with_raw(early=True).graph, of_rank(1)).ok


@pytest.mark.parametrize("version", ["auto_functionalized", "auto_functionalized_v2"])
def test_wrapped_has_a_line(version: str) -> None:
    build = Layers()
    wrapper = getattr(torch.ops.higher_order, version)
    shm = torch.ops.spfast_forms.shm_allreduce.default
    partial = build.partial()
    given = {"data": partial} if version == "auto_functionalized" else {"_data_base_index": 0}
    call = build.graph.call_function(wrapper, (shm,), {"handle": 0, **given})
    if version == "auto_functionalized_v2":
        call.kwargs = {**call.kwargs, "_all_bases": [partial]}
    call.meta["val"] = (None, partial.meta["val"])
    build.output([build.norm(build.call(operator.getitem, call, 1))])
    assert reasons(build.graph) == {
        version: f"higher_order.{version} wraps spfast_forms.shm_allreduce.default: "
        "only collectives that are called as they are can be rewritten"
    }


def test_what_no_dialect_knows_has_a_line() -> None:
    build = Layers()
    known = build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
    largest = build.call(torch.ops.spfast_forms.all_reduce_max.default, build.partial())
    build.output([build.norm(known), build.norm(largest)])
    explanation = spfast.explain(build.graph, of_rank(0))
    assert [(entry.node, entry.rewritten) for entry in explanation.entries] == [
        ("all_reduce_default", True),
        ("all_reduce_max_default", False),
    ]
    assert explanation.entries[1].reason == (
        "no dialect says what becomes of spfast_forms.all_reduce_max.default"
    )
    assert str(explanation).startswith("2 all_reduces, 1 rewritten, 1 left\n")
    alone = spfast.explain(build.graph, of_rank(0), registry=Registry())
    assert [entry.reason for entry in alone.entries] == [
        "no dialect says what becomes of _c10d_functional.all_reduce.default",
        "no dialect says what becomes of spfast_forms.all_reduce_max.default",
    ]


def test_many_writes_to_one_memory_are_looked_at_once() -> None:
    """Each in-place call asks who shares its memory: over the graph that is one walk."""

    def steps(count: int) -> int:
        build = Layers()
        partial = build.partial()
        for _ in range(count):
            partial = build.call(aten.view.default, partial, [8, 16])
        for _ in range(count):
            build.call(c10d.all_reduce_.default, partial, "sum", "tp")
        build.output([partial])
        return _calls(lambda: spfast.apply(build.graph, of_rank(0)))

    few, many = steps(50), steps(200)
    assert many < 5 * few


def _calls(act: Callable[[], object]) -> int:
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls
