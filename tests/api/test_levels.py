"""Graphs of another level than ATen's are said to be so, and are left as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed._functional_collectives  # registers the operators
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

import spfast

CONFIG = spfast.SequenceParallelConfig(tp_size=4, tp_rank=0, recognise="rowwise")
c10d = torch.ops._c10d_functional
INSTEAD = "pass the ATen graph that torch.export, AOTAutograd or Inductor's post-grad stage makes"


def said(how: str) -> str:
    return f"the graph is Dynamo's or symbolic_trace's, not ATen's ({how}): {INSTEAD}"


def norm(y: torch.Tensor) -> torch.Tensor:
    return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer(x: torch.Tensor) -> torch.Tensor:
    return norm(c10d.wait_tensor(c10d.all_reduce(x, "sum", "0")))


def by_dynamo(function: Any) -> fx.GraphModule:
    found: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, inputs: object) -> Any:
        found.append(module)
        return lambda *given: (norm(given[0]),)

    torch._dynamo.reset()
    torch.compile(function, backend=keep, fullgraph=True)(torch.ones(8, 16))
    return found[0]


@pytest.mark.parametrize("trace", [fx.symbolic_trace, by_dynamo])
def test_an_all_reduce_without_an_overload(trace: Any) -> None:
    module = trace(layer)
    code = module.code
    result = spfast.apply(module, CONFIG)
    reason = said("_c10d_functional.all_reduce names no overload")
    assert [site.reason for site in result.skipped] == [reason]
    assert reason in str(spfast.explain(module, CONFIG))
    assert module.code == code


@pytest.mark.parametrize("trace", [fx.symbolic_trace, by_dynamo])
def test_no_all_reduce_to_be_seen(trace: Any) -> None:
    module = trace(norm)
    want = said("%pow_1 calls a method of a tensor")
    result, explanation = spfast.apply(module, CONFIG), spfast.explain(module, CONFIG)
    # Which of them is met first is the order of FX's table.
    assert result.note == explanation.note
    assert result.note in (want, said("torch.rsqrt is no operator"))
    assert f"note: {result.note}" in str(result) and result.note in str(explanation)
    assert result.to_dict()["note"] == result.note


@pytest.mark.parametrize("function", [torch.rsqrt, torch.nn.functional.relu])
def test_a_function_of_tensors_alone(function: Any) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"),)))
    room = "torch" if function is torch.rsqrt else "torch.nn.functional"
    assert spfast.apply(graph, CONFIG).note == said(f"{room}.{function.__name__} is no operator")


def test_a_module_hides_what_it_calls() -> None:
    module = fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    assert spfast.apply(module, CONFIG).note == said("%_0 calls a module")


def test_aten_graphs_have_no_note() -> None:
    module = make_fx(norm)(torch.ones(8, 16))
    assert spfast.apply(module, CONFIG).note == ""
    assert str(spfast.explain(module, CONFIG)) == "0 all_reduces, 0 rewritten, 0 left"
    outer = fx.Graph()
    outer.output(outer.call_module("piece", (outer.placeholder("x"),)))
    assert spfast.apply(fx.GraphModule({"piece": module}, outer), CONFIG).note == ""


def test_a_graph_without_values_and_how_it_gets_them() -> None:
    module = make_fx(layer, tracing_mode="fake")(torch.ones(8, 16))
    for node in module.graph.nodes:
        node.meta.clear()
    result = spfast.apply(module, CONFIG)
    assert [site.reason for site in result.skipped] == [
        'no node of the graph has meta["val"], so that no size is known: pass a graph as it was '
        "traced, or run torch.fx.passes.fake_tensor_prop.FakeTensorProp on it first"
    ]
    FakeTensorProp(module).propagate(torch.ones(8, 16))
    assert int(spfast.apply(module, CONFIG)) == 1
