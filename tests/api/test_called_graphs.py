"""Graphs that a graph calls or passes on: pieces, branches, bodies."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional


def config(**fields: Any) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, **fields)


def body(returns_sum: bool = False) -> fx.GraphModule:
    """all_reduce of x times a weight, added to the residual and normed; or the sum alone."""
    build = GraphBuilder(tokens=8, dynamic=False)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
    residual = build.placeholder("residual", (TOKENS, 16), torch.float32)
    build.output([_layer(build, x, residual, returns_sum)])
    return module_of(build)


def module_of(build: GraphBuilder, **children: fx.GraphModule) -> fx.GraphModule:
    """A module with the weight of each layer."""
    return fx.GraphModule({"weight": torch.zeros(16, 16), **children}, build.graph)


def _layer(build: GraphBuilder, x: fx.Node, residual: fx.Node, returns_sum: bool) -> fx.Node:
    weight = build.graph.get_attr("weight")
    with x.meta["val"].fake_mode:
        weight.meta["val"] = torch.empty(16, 16)
    part = build.call(aten.mm.default, x, weight)
    reduced = build.call(
        c10d.wait_tensor.default, build.call(c10d.all_reduce.default, part, "sum", "tp")
    )
    if returns_sum:
        return reduced
    total = build.call(aten.add.Tensor, reduced, residual)
    mean = build.call(aten.mean.dim, build.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
    scale = build.call(aten.rsqrt.default, build.call(aten.add.Tensor, mean, 1e-6))
    return build.call(aten.mul.Tensor, total, scale)


def split(**children: fx.GraphModule) -> fx.GraphModule:
    """Pieces, one after the other, and a layer of its own behind them."""
    build = GraphBuilder(tokens=8, dynamic=False)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
    residual = build.placeholder("residual", (TOKENS, 16), torch.float32)
    for name in children:
        called = build.graph.call_module(name, (x, residual))
        called.meta["val"] = (x.meta["val"],)
        x, value = build.graph.call_function(operator.getitem, (called, 0)), x.meta["val"]
        x.meta["val"] = value
    build.output([_layer(build, x, residual, returns_sum=False)])
    return module_of(build, **children)


def collectives(graph: fx.Graph) -> list[str]:
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    return [name.split(".")[1] for name in names if "c10d" in name and "wait" not in name]


REWRITTEN = ["reduce_scatter_tensor", "all_gather_into_tensor"]


def test_pieces_are_rewritten_and_recompiled() -> None:
    module = split(first=body(), second=body(returns_sum=True))
    before = spfast.snapshot(module)
    explanation = spfast.explain(module, config())
    result = spfast.apply(module, config(validate=True), record_plan=True)
    assert [(entry.node, entry.rewritten) for entry in explanation.entries] == [
        ("all_reduce_default", True),
        ("first.all_reduce_default", True),
        ("second.all_reduce_default", False),
    ]
    assert int(result) == 2
    assert [site.node for site in result.skipped] == ["second.all_reduce_default"]
    assert "\nin first:\ncreate %new_0 = " in result.plan and "in second:" not in result.plan
    assert collectives(module.graph) == collectives(module.first.graph) == REWRITTEN
    assert collectives(module.second.graph) == ["all_reduce"]
    assert "reduce_scatter_tensor" in module.first.code
    proof = spfast.verify(before, module, config())
    assert proof.ok and {each.value.partition(".")[0] for each in proof.assumptions} >= {"first"}
    assert spfast.verify(before, module, config(), replicated=["residual", "first.residual"]).ok
    assert not spfast.verify(before, module, config(), replicated=["residual"]).ok


def test_what_a_called_graph_has_written_to_is_not_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def whole(writes: bool) -> fx.GraphModule:
        build = GraphBuilder(tokens=8, dynamic=False)
        x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
        residual = build.placeholder("residual", (TOKENS, 16), torch.float32)
        target = aten.add_.Tensor if writes else aten.add.Tensor
        build.output([build.call(target, residual, x)])
        return split(first=fx.GraphModule({}, build.graph))

    assert int(spfast.apply(whole(writes=False), config())) == 1
    assert [each.reason for each in spfast.apply(whole(writes=True), config()).skipped] == [
        "%first = call_module writes in place to %residual"
    ]
    monkeypatch.setattr("spfast.api.tell_across", lambda runs: None)
    for writes in (False, True):
        module = whole(writes)
        before = spfast.snapshot(module)
        assert int(spfast.apply(module, config())) == 1
        assert spfast.verify(before, module, config(), replicated=["residual"]).ok is not writes


def test_a_graph_that_is_called_twice_is_rewritten_once() -> None:
    shared = body()
    module = split(first=shared, second=shared)
    assert int(spfast.apply(module, config())) == 2
    assert collectives(shared.graph) == REWRITTEN


def test_pieces_of_pieces() -> None:
    module = split(outer=split(inner=body()))
    assert [entry.node for entry in spfast.explain(module, config()).entries] == [
        "all_reduce_default",
        "outer.all_reduce_default",
        "outer.inner.all_reduce_default",
    ]


def test_branches_of_a_condition() -> None:
    build = GraphBuilder(tokens=8, dynamic=False)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
    residual = build.placeholder("residual", (TOKENS, 16), torch.float32)
    chosen = build.graph.placeholder("chosen")
    branches = [build.graph.get_attr(name) for name in ("true_graph_0", "false_graph_0")]
    called = build.graph.call_function(
        torch.ops.higher_order.cond, (chosen, *branches, (x, residual))
    )
    called.meta["val"] = (x.meta["val"],)
    part = build.graph.call_function(operator.getitem, (called, 0))
    part.meta["val"] = x.meta["val"]
    build.graph.output((part,))
    module = fx.GraphModule({"true_graph_0": body(), "false_graph_0": body()}, build.graph)
    result = spfast.apply(module, config(validate=True))
    assert int(result) == 2
    assert collectives(module.true_graph_0.graph) == REWRITTEN
    assert collectives(module.false_graph_0.graph) == REWRITTEN


def assert_taken_back(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a rewrite that is not proved is left, in graphs or code."""
    before = str(module.graph), str(module.first.graph), module.first.code
    failed = spfast.Verification(problems=(spfast.Problem("first.mul", "is not right"),))
    monkeypatch.setattr("spfast.verifier.verify", lambda *_: failed)
    with pytest.raises(spfast.VerificationError, match="first.mul: is not right"):
        spfast.apply(module, config(validate=True))
    assert (str(module.graph), str(module.first.graph), module.first.code) == before


def test_all_graphs_are_as_they_were_when_one_cannot_be_proved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = split(first=body())
    assert_taken_back(module, monkeypatch)


def test_a_fault_in_the_last_graph_undoes_the_first() -> None:
    module = split(first=body())
    before = str(module.graph), str(module.first.graph), module.first.code

    def fail(*_: Any) -> None:
        raise RuntimeError("no more nodes")

    module.first.graph.erase_node = fail
    with pytest.raises(RuntimeError, match="no more nodes"):
        spfast.apply(module, config())
    assert (str(module.graph), str(module.first.graph), module.first.code) == before


def sums() -> fx.GraphModule:
    """The sum of two all_reduces, which becomes one."""
    build = GraphBuilder(tokens=8, dynamic=False)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
    y = build.placeholder("residual", (TOKENS, 16), torch.float32, kind="per_rank")
    left, right = (_layer(build, each, each, returns_sum=True) for each in (x, y))
    build.output([build.call(aten.add.Tensor, left, right)])
    return module_of(build)


def test_sums_of_a_called_graph_are_taken_back_with_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = split(first=sums())
    before = module.first.code
    assert_taken_back(module, monkeypatch)
    monkeypatch.undo()
    assert len(spfast.apply(module, config(validate=True)).merged) == 1
    assert module.first.code != before


def test_sums_are_taken_back_where_those_of_the_next_graph_fail() -> None:
    module = split(first=sums(), second=sums())
    before = str(module.first.graph), str(module.second.graph)

    def fail(*_: Any) -> None:
        raise RuntimeError("no more nodes")

    module.second.graph.erase_node = fail
    with pytest.raises(RuntimeError, match="no more nodes"):
        spfast.apply(module, config())
    assert (str(module.first.graph), str(module.second.graph)) == before


def test_a_rewrite_that_is_wrong_inside_is_not_proved() -> None:
    module = split(first=body())
    before = spfast.snapshot(module)
    spfast.apply(module, config())
    inner = module.first.graph
    cut = inner.find_nodes(op="call_function", target=aten.slice.Tensor)[0]
    cut.args = (cut.args[0], 0, 0, 2)  # rank 0's rows
    proof = spfast.verify(before, module, config())
    assert not proof.ok
    assert {problem.node.partition(".")[0] for problem in proof.problems} == {"first"}


def test_a_graph_that_is_called_on_one_side_only_is_told() -> None:
    before, after = split(first=body()), split(other=body())
    found = spfast.verify(before, after, config()).problems
    assert [str(problem) for problem in found[:2]] == [
        "first: is a graph that one of the two calls alone",
        "other: is a graph that one of the two calls alone",
    ]


def test_groups_of_all_graphs_count() -> None:
    inner = body()
    call = inner.graph.find_nodes(op="call_function", target=c10d.all_reduce.default)[0]
    call.args = (call.args[0], "sum", "ep")
    with pytest.raises(spfast.ConfigError, match="over the groups 'ep', 'tp', and tp_rank=1"):
        spfast.apply(split(first=inner), config())


def test_a_graph_without_all_reduces_and_what_it_calls_stay() -> None:
    graph = fx.Graph()
    graph.output(graph.call_module("inner", (graph.placeholder("x"),)))
    module = fx.GraphModule({"inner": fx.symbolic_trace(torch.nn.ReLU())}, graph)
    assert spfast.explain(module, config()).entries == ()
