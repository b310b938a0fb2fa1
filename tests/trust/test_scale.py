"""Depth and width: no recursion over the graph, and no work that grows faster than the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from support.counted import calls_of
from torch import fx

import spfast
from spfast.testing.builder import GraphBuilder

aten = torch.ops.aten
CONFIG = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1)


def site(build: GraphBuilder, x: fx.Node, weight: fx.Node, group: str = "tp:0") -> fx.Node:
    """One first site after ``x``."""
    reduced = build.graph.call_function(torch.ops.vllm.all_reduce.default, (x, group))
    normed = build.graph.call_function(torch.ops.vllm_ir.rms_norm.default, (reduced, weight, 1e-5))
    reduced.meta["val"] = normed.meta["val"] = x.meta["val"]
    return normed


def start() -> tuple[GraphBuilder, fx.Node, fx.Node]:
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    return build, x, build.placeholder("w", (16,), torch.float32)


def chain(length: int) -> fx.Graph:
    build, x, weight = start()
    last = site(build, x, weight)
    val = x.meta["val"]
    for _ in range(length):
        last = build.graph.call_function(aten.relu.default, (last,))
        last.meta["val"] = val
    matrix = build.placeholder("m", (16, 16), torch.float32)
    partial = build.call(aten.mm.default, last, matrix)
    build.graph.output((site(build, partial, weight),))
    return build.graph


def fan(users: int) -> fx.Graph:
    build, x, weight = start()
    normed = site(build, x, weight)
    val = x.meta["val"]
    readers = []
    for _ in range(users):
        reader = build.graph.call_function(aten.relu.default, (normed,))
        reader.meta["val"] = val
        readers.append(reader)
    build.graph.output(tuple(readers))
    return build.graph


def noise(length: int) -> fx.Graph:
    """Names of names of the reduced value."""
    build, x, weight = start()
    last = build.graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
    last.meta["val"] = val = x.meta["val"]
    for _ in range(length):
        last = build.graph.call_function(aten.alias.default, (last,))
        last.meta["val"] = val
    normed = build.graph.call_function(torch.ops.vllm_ir.rms_norm.default, (last, weight, 1e-5))
    normed.meta["val"] = val
    build.graph.output((normed,))
    return build.graph


def groups(count: int) -> fx.Graph:
    build, x, weight = start()
    outputs = [site(build, x, weight, group=f"tp:{i}") for i in range(count)]
    build.graph.output(tuple(outputs))
    return build.graph


def config_of(make: Callable[[int], fx.Graph], size: int) -> spfast.SequenceParallelConfig:
    """One rank of four, of every group that the graph has."""
    if make is not groups:
        return CONFIG
    return spfast.SequenceParallelConfig(groups={f"tp:{i}": (4, 1) for i in range(size)})


def sites_with_taps(count: int) -> fx.Graph:
    """Every site reads the same residual, and everybody reads every value."""
    build, x, weight = start()
    val = x.meta["val"]
    outputs = []
    for _ in range(count):
        reduced = build.graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
        both = build.graph.call_function(
            torch.ops.vllm_ir.fused_add_rms_norm.default, (reduced, x, weight, 1e-5)
        )
        reduced.meta["val"], both.meta["val"] = val, (val, val)
        import operator

        for part in (0, 1):
            taken = build.graph.call_function(operator.getitem, (both, part))
            taken.meta["val"] = val
            outputs.append(taken)
    build.graph.output(tuple(outputs))
    return build.graph


@pytest.mark.parametrize(
    ("make", "size", "sites"),
    [(chain, 100_000, 2), (fan, 100_000, 1), (noise, 20_000, 1), (groups, 10_000, 10_000)],
)
def test_deep_and_wide_graphs(make: Callable[[int], fx.Graph], size: int, sites: int) -> None:
    graph = make(size)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        result = spfast.apply(graph, config_of(make, size))
    finally:
        sys.setrecursionlimit(limit)
    assert result.matched_count == sites and result.skipped == ()


def test_deeply_nested_argument_is_encoded() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(aten.cat.default, ([x],))
    deep: object = x
    for _ in range(10_000):
        deep = [deep]
    # FX's own setters recurse over an argument; the field itself takes what it is given.
    node._args = (deep,)
    graph.output(x)
    table = spfast.NodeTable.from_graph(graph)
    assert len(spfast.NodeTable.from_bytes(table.to_bytes())) == 3


@pytest.mark.parametrize("make", [chain, fan, groups, sites_with_taps, noise])
def test_calls_grow_with_the_graph(make: Callable[[int], fx.Graph]) -> None:
    def calls(graph: fx.Graph, config: spfast.SequenceParallelConfig) -> int:
        return calls_of(lambda: spfast.apply(graph, config))

    spfast.apply(make(10), config_of(make, 10))  # what is made once in a process
    # Four times the graph: linear work makes four times the calls, quadratic work sixteen times.
    few, many = (calls(make(size), config_of(make, size)) for size in (500, 2000))
    assert many < 5 * few, f"four times the graph took {many / few:.1f} times the calls"
