"""Graphs of one all_reduce and what is made of it, rewritten by the row-wise recogniser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

import spfast
from spfast import SequenceParallelConfig
from spfast.testing.lockstep import run_lockstep
from spfast.verifier import snapshot, verify

RANKS, TOKENS, WIDTH = 4, 8, 6
aten = torch.ops.aten
c10d: Any = torch.ops._c10d_functional
Body = Callable[[fx.Graph, fx.Node, fx.Node, fx.Node], fx.Node]


def make(body: Body, shape: tuple[int, ...] = (TOKENS, WIDTH)) -> fx.Graph:
    """x -> all_reduce -> wait -> body(graph, reduced, weight, full rows) -> output."""
    graph = fx.Graph()
    x, weight, rows = (graph.placeholder(name) for name in ("x", "weight", "rows"))
    mode = FakeTensorMode()
    with mode:
        x.meta["val"], rows.meta["val"] = torch.empty(shape), torch.empty(shape)
        weight.meta["val"] = torch.empty(WIDTH)
    started = graph.call_function(c10d.all_reduce.default, (x, "sum", "0"))
    reduced = graph.call_function(c10d.wait_tensor.default, (started,))
    graph.output((body(graph, reduced, weight, rows),))
    with mode:
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            args = fx.node.map_arg(node.args, lambda n: n.meta["val"])
            kwargs = fx.node.map_arg(node.kwargs, lambda n: n.meta["val"])
            is_collective = "c10d" in str(node.target)
            if is_collective:
                node.meta["val"] = torch.empty_like(args[0])
            else:
                node.meta["val"] = node.target(*args, **kwargs)
    return graph


def rewrite(body: Body, **options: Any) -> tuple[Any, list[fx.Graph], fx.Graph]:
    shape = options.pop("shape", (TOKENS, WIDTH))
    graphs = [make(body, shape) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, recognise="rowwise", **options)
        result = spfast.apply(graph, config)
        graph.lint()
    return result, graphs, make(body, shape)


def check_same(body: Body, shape: tuple[int, ...] = (TOKENS, WIDTH), **options: Any) -> fx.Graph:
    """Every rank's rewritten graph computes what it computed before, and is proved to."""
    result, graphs, original = rewrite(body, shape=shape, **options)
    assert int(result) == 1, result
    inputs = [
        [torch.randn(shape) for _ in range(1)] + shared
        for shared in [[torch.rand(WIDTH), torch.randn(shape)]] * RANKS
    ]
    before = run_lockstep([original] * RANKS, inputs)
    after = run_lockstep(graphs, inputs)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b[0], a[0])
    config = SequenceParallelConfig(tp_size=RANKS, tp_rank=RANKS - 1)
    assert verify(snapshot(original), graphs[-1], config)
    return graphs[-1]


def gathered_dtypes(graph: fx.Graph) -> list[torch.dtype]:
    target = c10d.all_gather_into_tensor.default
    return [
        n.args[0].meta["val"].dtype for n in graph.find_nodes(op="call_function", target=target)
    ]


def norm(graph: fx.Graph, x: fx.Node, dim: int = -1) -> fx.Node:
    square = graph.call_function(aten.pow.Tensor_Scalar, (x, 2))
    mean = graph.call_function(aten.mean.dim, (square, [dim], True))
    return graph.call_function(
        aten.mul.Tensor, (x, graph.call_function(aten.rsqrt.default, (mean,)))
    )
