"""Every all_reduce has a line: in place, raw, wrapped, unknown."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from api.layers import RANKS, Layers, aten, c10d, of_rank, reasons, run_as, targets
from support.counted import calls_of
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.distributed.fake_pg import FakeStore

import spfast
from spfast.fxgraph.in_place import Sharing
from spfast.patterns import Registry
from spfast.run.run import Run

LIBRARY = torch.library.Library("spfast_forms", "FRAGMENT")
LIBRARY.define("shm_allreduce(int handle, Tensor(a!) data) -> ()")
LIBRARY.define("all_reduce_max(Tensor x) -> Tensor")
LIBRARY.impl("shm_allreduce", lambda handle, data: None, "Meta")
LIBRARY.impl("all_reduce_max", torch.empty_like, "Meta")


# --- in place -------------------------------------------------------------------------------------


def in_place(build: Layers, x: fx.Node, reduce_op: str = "sum") -> fx.Node:
    return build.wait(build.call(c10d.all_reduce_.default, x, reduce_op, "tp"))


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


def _product_of_an_input(build: Layers) -> list[fx.Node]:
    # Where a rank has no such product, the input itself is written to.
    return [build.norm(in_place(build, build.call(aten.mul.Tensor, build.x, build.x)))]


def _more_of_an_input(build: Layers) -> list[fx.Node]:
    square = build.call(aten.mul.Tensor, build.x, build.x)
    return [build.norm(in_place(build, build.call(aten.mul.Tensor, square, 2.0)))]


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
    (
        _product_of_an_input,
        "on a rank that lacks %mul_tensor it writes to %x, which is an input of the graph",
    ),
    (
        _more_of_an_input,
        "on a rank that lacks %mul_tensor to %mul_tensor_1 it writes to %x, which is an input of "
        "the graph",
    ),
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


def test_each_write_has_the_reason_that_is_true_of_it() -> None:
    # The first is read after it was made, the second is not: what was found of the one is no
    # reason for the other.
    build = Layers()
    square = build.call(aten.mul.Tensor, build.x, build.x)
    first = in_place(build, build.call(aten.view.default, square, [8, 16]))
    second = in_place(build, build.x)
    build.output([build.norm(first), build.norm(second)])
    assert reasons(build.graph) == {
        "all_reduce__default": "on a rank that lacks %mul_tensor it writes to %x, which is an "
        "input of the graph",
        "all_reduce__default_1": "it writes to %x, which is an input of the graph",
    }


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


def test_a_chain_of_writes_is_looked_at_once() -> None:
    def steps(count: int) -> int:
        build = Layers()
        total = build.partial()
        for _ in range(count):
            total = in_place(build, build.call(aten.mul.Tensor, total, 2.0))
        build.output([build.norm(total)])
        sharing = Sharing(build.graph)
        calls = build.graph.find_nodes(op="call_function", target=c10d.all_reduce_.default)
        sharing.who_sees(calls[0], [calls[0].args[0]])
        return calls_of(lambda: [sharing.who_sees(call, [call.args[0]]) for call in calls])

    few, many = steps(50), steps(200)
    assert many < 5 * few


def test_where_one_after_the_other_stays_it_takes_few_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that stays writes to what the one before it is read for."""
    build = Layers()
    total = build.partial()
    for _ in range(60):
        # The largest of equal values is no other: a sum of them would give itself away.
        total = in_place(build, build.call(aten.mul.Tensor, total, 2.0), "max")
    build.output([total])
    rounds = []
    leave = Run._leave_listed
    monkeypatch.setattr(Run, "_leave_listed", lambda self, n: rounds.append(n) or leave(self, n))
    result = spfast.apply(build.graph, of_rank(0))
    assert len(rounds) < 15
    said = {site.node: site.reason for site in result.skipped}
    assert len(said) == 60
    assert said["all_reduce__default_58"] == (
        "%all_reduce__default_59 = _c10d_functional.all_reduce_.default writes in place to "
        "%mul_tensor_59"
    )
    assert said["all_reduce__default_50"] == (
        "it is planned together with %all_reduce__default_51, which stays"
    )


def test_a_write_is_seen_by_what_reads_the_result_of_an_earlier_one() -> None:
    # On a rank without the product both write to one memory.
    build = Layers()
    partial = build.partial()
    double = build.call(aten.mul.Tensor, partial, 2.0)
    first = in_place(build, partial)
    second = in_place(build, double)
    build.output([build.norm(second), build.norm(first)])
    result = spfast.apply(build.graph, of_rank(0))
    assert int(result) == 1
    assert {site.node: site.reason for site in result.skipped} == {
        "all_reduce__default_1": "on a rank that lacks %mul_tensor it writes to memory of "
        "%wait_tensor_default, which %add_tensor_2 reads afterwards"
    }


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
        return calls_of(lambda: spfast.apply(build.graph, of_rank(0)))

    few, many = steps(50), steps(200)
    assert many < 5 * few


def test_what_writes_in_place_is_not_said_to_need_all_tokens() -> None:
    build = Layers()
    total = build.wait(build.call(c10d.all_reduce.default, build.partial(), "sum", "tp"))
    build.output([build.call(aten.add_.Tensor, build.residual, total)])
    assert reasons(build.graph) == {
        "all_reduce_default": "no rule matches what reads it, and %add__tensor = aten.add_.Tensor "
        "reads it and writes to memory in place"
    }
