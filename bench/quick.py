"""A benchmark of under a minute that proves results, not times.

Every contender rewrites the same small graphs; they must agree on every detail. Then spfast runs on
80 layers, beside the edits typed by hand and torch's matcher on few. Times are reported, and only
they may differ from run to run: nothing is asserted of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import machine
from .agreement import assert_agreement
from .contenders import HAND, MATCHER, SPFAST, contenders
from .harness import compare, ratios
from .workloads.catalogue import WORKLOADS

LAYERS, FEW = 80, 8
# One static and one dynamic graph of each dialect.
TIMED = (
    "vLLM IR bf16, static",
    "vLLM IR bf16, dynamic",
    "functional 3D, static",
    "functional 3D, dynamic",
)


def measure(say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Runs everything.

    Returns:
        Plain data: the machine, who agreed, sites and times.

    Raises:
        AssertionError: two contenders made different graphs, or found different sites.
    """
    torch.set_num_threads(1)
    record: dict[str, Any] = {"machine": machine.describe(), "agreement": {}, "times": {}}
    for workload in WORKLOADS.values():
        who = contenders(workload, (SPFAST, HAND, MATCHER))
        assert_agreement(workload, who, 2)
        record["agreement"][workload.name] = [contender.name for contender in who]
        say(f"{workload.name}: {len(who)} make the same graph")
    for name in TIMED:
        workload = WORKLOADS[name]
        rows = {}
        for depth, peers in ((LAYERS, (SPFAST, HAND)), (FEW, (SPFAST, MATCHER))):
            samples = compare(
                contenders(workload, peers),
                partial(workload.fresh, depth),
                workload.sites(depth),
                repeats=3,
                attempts=0,
            )
            rows[depth] = {
                "sites": workload.sites(depth),
                "contenders": {who: sample.to_json() for who, sample in samples.items()},
                "times_spfast": ratios(samples, SPFAST.name),
            }
        record["times"][name] = rows
    return record


def text(record: dict[str, Any]) -> str:
    """The record for a person."""
    lines = [f"{len(record['agreement'])} workloads: all contenders make the same graphs", ""]
    lines.append(f"{'workload':24} {'layers':>6} {'sites':>6}  ms (times spfast's)")
    for name, rows in record["times"].items():
        for depth, row in rows.items():
            shown = ", ".join(
                f"{who} {sample['median_s'] * 1e3:.2f} ({row['times_spfast'][who]:.3g}x)"
                for who, sample in row["contenders"].items()
            )
            lines.append(f"{name:24} {depth:>6} {row['sites']:>6}  {shown}")
    return "\n".join(lines)
