"""Threads: different graphs at the same time, one pass object shared by all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.goldens import load_golden
from torch import fx

import spfast
from spfast import patterns

CONFIG = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, divisibility="assume")
THREADS, ROUNDS = 4, 12


def text(graph: fx.Graph) -> list[Any]:
    return [(node.name, str(node.target), str(node.args)) for node in graph.nodes]


def expected(case: str) -> list[Any]:
    graph = load_golden(case).before
    spfast.apply(graph, CONFIG)
    return text(graph)


@pytest.mark.parametrize("shared", [False, True], ids=["apply", "one shared pass"])
def test_graphs_in_parallel(shared: bool) -> None:
    cases = ["bf16_static_2layer", "bf16_dynamic_2layer", "fp8_native_static_2layer"]
    wanted = {case: expected(case) for case in cases}
    graphs = [(case, load_golden(case).before) for _ in range(ROUNDS) for case in cases]
    sp = spfast.SequenceParallelismPass(CONFIG)
    together = threading.Barrier(THREADS)

    def work(number: int) -> list[tuple[str, int, list[Any]]]:
        together.wait()
        done = []
        for case, graph in graphs[number::THREADS]:
            if shared:
                sp(graph)
                count = -1  # whose result the pass remembers is anybody's
            else:
                count = int(spfast.apply(graph, CONFIG))
            done.append((case, count, text(graph)))
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        results = [item for part in pool.map(work, range(THREADS)) for item in part]
    assert len(results) == len(graphs)
    for case, count, found in results:
        assert found == wanted[case]
        assert count in (-1, 5)


def test_rules_registered_meanwhile() -> None:
    """A registry may change while others compile and use it."""
    registry = patterns.default_registry().copy()
    stop = threading.Event()

    def register() -> int:
        count = 0
        while not stop.is_set() and count < 200:

            @registry.register(f"extra_{count}", dialect="vllm_ir")
            def extra(x: Any, scale: Any) -> Any:
                return patterns.ops.mylib.scale(x, scale)

            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        registering = pool.submit(register)
        for _ in range(10):
            graph = load_golden("bf16_static_2layer").before
            assert int(spfast.apply(graph, CONFIG, registry=registry)) == 5
        stop.set()
        assert registering.result() > 0
