"""How long it takes to find the largest sums of a graph."""

from __future__ import annotations

import dataclasses

from sums.builder import RANKS, Sums, aten
from support.counted import calls_of

import spfast

CONFIG = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0)


def test_many_reductions_of_one_sum_are_looked_at_once() -> None:
    """The inner sums of a large one are part of it, however many there are."""

    def steps(count: int) -> int:
        build = Sums()
        part = build.part("x")
        total = build.reduced(build.call(aten.mul.Tensor, part, 2.0))
        for _ in range(count):
            total = build.add(total, build.reduced(build.call(aten.mul.Tensor, part, 2.0)))
        build.output([total])
        return calls_of(lambda: spfast.apply(build.graph, CONFIG))

    few, many = steps(50), steps(400)
    assert many < 9 * few


def test_sums_one_after_the_other_are_proved_however_they_were_written() -> None:
    """What two blocks add to a stream that is read in between; each adds two reductions."""
    build = Sums()
    stream = build.placeholder("stream", (8, 4), build.dtype)
    outputs = []
    for block in "ab":
        for part in "xy":
            stream = build.add(stream, build.reduced(block + part))
        outputs.append(build.call(aten.relu.default, stream))
    build.output(outputs)
    graph = build.graph
    assert len(spfast.apply(graph, dataclasses.replace(CONFIG, validate=True)).merged) == 2


def test_other_addends_are_not_proved() -> None:
    graphs = []
    for names in ("ab", "ac"):
        build = Sums()
        parts = {name: build.part(name) for name in "abc"}
        both = build.add(*[parts[name] for name in names])
        build.output([build.reduced(both)])
        graphs.append(build.graph)
    assert spfast.verify(graphs[0], graphs[0], CONFIG).ok
    assert not spfast.verify(graphs[0], graphs[1], CONFIG).ok
