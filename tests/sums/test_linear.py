"""How long it takes to find the largest sums of a graph."""

from __future__ import annotations

from counted import calls_of
from sums.builder import RANKS, Sums, aten

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
