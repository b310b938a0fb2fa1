"""Many runs leave memory as it was, those that fail included."""

from __future__ import annotations

import gc
import logging
import os
import resource
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast
from spfast.testing.builder import GraphBuilder

CONFIG = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1)
RUNS = int(os.environ.get("SPFAST_RUNS", "2000"))


def graph_maker() -> Callable[[], fx.Graph]:
    """Graphs of one site that share a mode and values, so that a run makes little else."""
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    w = build.placeholder("w", (16,), torch.float32)
    full, weight = x.meta["val"], w.meta["val"]

    def make() -> fx.Graph:
        graph = fx.Graph()
        x, w = graph.placeholder("x"), graph.placeholder("w")
        x.meta["val"], w.meta["val"] = full, weight
        reduced = graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
        normed = graph.call_function(torch.ops.vllm_ir.rms_norm.default, (reduced, w, 1e-5))
        reduced.meta["val"] = normed.meta["val"] = full
        graph.output((normed,))
        return graph

    return make


def succeed(make: Callable[[], fx.Graph]) -> None:
    assert int(spfast.apply(make(), CONFIG)) == 1


def fail_in_commit(make: Callable[[], fx.Graph]) -> None:
    graph = make()

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("injected")

    graph.erase_node = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="injected"):
        spfast.apply(graph, CONFIG)


def fail_in_encode(make: Callable[[], fx.Graph]) -> None:
    graph = make()
    stranger = fx.Graph().placeholder("stranger")
    norm = graph.find_nodes(op="call_function", target=torch.ops.vllm_ir.rms_norm.default)[0]
    norm.args = (stranger, *norm.args[1:])
    with pytest.raises(spfast.GraphError):
        spfast.apply(graph, CONFIG)


def round_trip(make: Callable[[], fx.Graph]) -> None:
    table = spfast.NodeTable.from_graph(make())
    spfast.NodeTable.from_bytes(table.to_bytes())


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize("work", [succeed, fail_in_commit, fail_in_encode, round_trip])
def test_memory_stays_flat(
    work: Callable[[Callable[[], fx.Graph]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest keeps every record that it captures.
    for logger in (logging.root, torch._logging._internal.trace_log):
        monkeypatch.setattr(logger, "handlers", [])
    make = graph_maker()
    tracemalloc.start()
    try:
        # The interpreter's stock of free objects is made while somebody looks, and then is there.
        for _ in range(RUNS // 4):
            work(make)
        gc.collect()
        resident = resident_bytes()
        traced = tracemalloc.get_traced_memory()[0]
        for _ in range(RUNS):
            work(make)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - traced
        resident_grown = resident_bytes() - resident
    finally:
        tracemalloc.stop()
    # A leak of one node a run would be over a kilobyte a run.
    assert grown < 100 * RUNS, f"{grown} traced bytes more after {RUNS} runs"
    assert resident_grown < 32 * 2**20 + 100 * RUNS
