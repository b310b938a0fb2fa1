"""Drawn tensor-parallel graphs contain pairs: fused on every rank, they compute what they did."""

from __future__ import annotations

import dataclasses
import os

import spfast
from spfast.testing import assert_equivalent, async_tp_stand_in, seeded_case

COUNT = int(os.environ.get("SPFAST_FUZZ", "15"))


def test_drawn_graphs_compute_the_same_and_are_proved() -> None:
    fused = 0
    for seed in range(COUNT):
        case = seeded_case(seed)

        def rewrite(graph: object, rank: int, case: object = case) -> int:
            config = dataclasses.replace(
                case.config(rank), async_tp=True, async_tp_thresholds=(), validate=True
            )
            found = spfast.apply(graph, config).async_tp  # type: ignore[call-overload]
            return int(found) if found is not None else 0

        with async_tp_stand_in():
            counts = assert_equivalent(
                case.graph,
                rewrite,
                case.inputs(),
                case.world_size,
                rtol=case.rtol,
                groups=case.groups,
            )
        assert len(set(counts)) == 1, (seed, counts)
        fused += counts[0]
    assert fused > COUNT // 4, "too few pairs were drawn"
