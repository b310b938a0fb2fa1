"""What fusing pairs adds to the pass: `python -m bench.pairs_time [--layers 80] [--save FILE]`.

The same graphs with and without ``async_tp``, in turn; nothing is run, so that stand-ins let every
pair be fused. Times are processor time.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import spfast
from spfast.testing import async_tp_stand_in

from . import machine
from .harness import Contender, compare
from .workloads.catalogue import WORKLOADS

NAMES = (
    "vLLM IR bf16, static",
    "vLLM IR bf16, dynamic",
    "vLLM IR FP8 op, static",
    "vLLM IR FP8 op, dynamic",
    "functional 3D, static",
    "functional 3D, dynamic",
)
RANKS = 8


def measure(name: str, layers: int, repeats: int = 7) -> dict[str, Any]:
    """Milliseconds of the pass over one graph, without and with its pairs.

    Args:
        name: Of a workload.
        layers: Decoder layers; each has four pairs.
        repeats: Timed rounds.

    Raises:
        AssertionError: not all of them were fused.
    """
    workload = WORKLOADS[name]
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0, async_tp_thresholds=())
    pairs: set[int] = set()

    def with_pairs(graph: Any) -> int:
        result = spfast.apply(graph, config, async_tp=True)
        assert result.async_tp is not None
        pairs.add(len(result.async_tp.fused))
        return int(result)

    plain = Contender("plain", lambda graph: int(spfast.apply(graph, config)))
    with async_tp_stand_in():
        samples = compare(
            (plain, Contender("with pairs", with_pairs)),
            partial(workload.fresh, layers),
            workload.sites(layers),
            repeats,
        )
    assert pairs == {4 * layers}, pairs
    before, after = (samples[each].median * 1e3 for each in ("plain", "with pairs"))
    return {
        "workload": name,
        "layers": layers,
        "pairs": 4 * layers,
        "plain_ms": round(before, 2),
        "with_pairs_ms": round(after, 2),
        "more_ms": round(after - before, 2),
        "ratio": round(after / before, 2),
        "noisy": any(sample.noisy for sample in samples.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", help="workloads whose name contains this")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    rows = []
    for name in NAMES:
        if given.only is None or given.only in name:
            rows.append(measure(name, given.layers, given.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if given.save is not None:
        record = {"machine": machine.describe(), "rows": rows}
        given.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
