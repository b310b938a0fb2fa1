"""What is measured: each function runs one experiment and returns plain data for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import spfast
from spfast import result as results

from .agreement import assert_agreement
from .contenders import HAND, PEERS, SPFAST, absent, contenders
from .harness import REPEATS, Contender, compare, ratios, timed
from .workloads.catalogue import WORKLOADS, Workload

Say = Callable[[str], None]
Record = dict[str, Any]

STAGES = ("encode", "match", "plan", "commit", "meta")
# Everybody takes part in these; in the others spfast and the edits by hand do.
COMPARED = (
    "vLLM IR bf16, static",
    "vLLM IR bf16, dynamic",
    "functional 3D, static",
)
SLOWEST = 1.5  # seconds; who would take longer for one call is not asked for seven


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        layers: of the graphs on which everybody is compared.
        sweep: numbers of layers of the sweep.
        repeats: timed calls of each thing.
    """

    layers: int = 80
    sweep: tuple[int, ...] = (2, 5, 10, 20, 40, 80, 160, 320, 1000)
    repeats: int = REPEATS


def agreement(layers: int, say: Say) -> Record:
    """That all contenders make the same graph of every workload; raises where they do not."""
    agreed: Record = {}
    for workload in WORKLOADS.values():
        who = contenders(workload)
        assert_agreement(workload, who, layers)
        agreed[workload.name] = {
            "same": [contender.name for contender in who],
            "absent": absent(workload),
        }
        say(f"{workload.name}: {len(who)} contenders make the same graph")
    return agreed


def comparison(scale: Scale, say: Say) -> Record:
    """Everybody on graphs of one depth."""
    record: Record = {}
    for workload in WORKLOADS.values():
        peers = PEERS if workload.name in COMPARED else (SPFAST, HAND)
        who = contenders(workload, peers)
        samples = compare(
            who,
            partial(workload.fresh, scale.layers),
            workload.sites(scale.layers),
            scale.repeats,
            warmup=0,
            say=say,
        )
        record[workload.name] = {
            "layers": scale.layers,
            "nodes": len(workload.build(scale.layers).nodes),
            "sites": workload.sites(scale.layers),
            "contenders": {name: sample.to_json() for name, sample in samples.items()},
            "times_spfast": ratios(samples, SPFAST.name),
        }
        shown = ", ".join(f"{name} {s.median * 1e3:.2f} ms" for name, s in samples.items())
        say(f"{workload.name}: {shown}")
    return record


def layers(scale: Scale, say: Say) -> Record:
    """Everybody against the number of layers, each as far as a call stays bearable."""
    record: Record = {}
    for name in COMPARED[:2]:
        workload = WORKLOADS[name]
        who = contenders(workload)
        curves: dict[str, list[Record]] = {contender.name: [] for contender in who}
        for depth in scale.sweep:
            who = [c for c in who if _expected(curves[c.name], depth) < SLOWEST]
            samples = compare(
                who,
                partial(workload.fresh, depth),
                workload.sites(depth),
                scale.repeats,
                warmup=0,
                say=say,
            )
            for contender, sample in samples.items():
                curves[contender].append({"layers": depth, **sample.to_json()})
            say(f"{name}, {depth} layers: {len(who)} contenders")
        record[name] = curves
    return record


def _expected(curve: Sequence[Record], depth: int) -> float:
    """How long a call will take, if it grows a little faster than linearly."""
    if not curve:
        return 0.0
    last = curve[-1]
    expected: float = last["median_s"] * (depth / last["layers"]) ** 1.2
    return expected


def proofs(scale: Scale, say: Say) -> Record:
    """What the verifier costs: the pass as it is, and with each result proved."""
    record: Record = {}
    for workload in WORKLOADS.values():
        plain = contenders(workload, (SPFAST,))[0]
        config = dataclasses.replace(_config(workload), validate=True)
        proved = Contender("proved", partial(_matched, config))
        record[workload.name] = rows = {}
        for depth in (2, scale.layers):
            samples = compare(
                (plain, proved),
                partial(workload.fresh, depth),
                workload.sites(depth),
                scale.repeats,
                say=say,
            )
            rows[str(depth)] = {
                "pass_s": samples[plain.name].median,
                "proved_s": samples[proved.name].median,
                "noisy": any(sample.noisy for sample in samples.values()),
                # The proof alone, in passes.
                "proof": ratios(samples, plain.name)[proved.name] - 1,
            }
            say(f"{workload.name}, {depth} layers: a proof is {rows[str(depth)]['proof']:.2f}x")
    return record


def _matched(config: spfast.SequenceParallelConfig, graph: torch.fx.Graph) -> int:
    return spfast.apply(graph, config).matched_count


def stages(scale: Scale, say: Say) -> Record:
    """Where spfast's time goes, by its own clock (of time that passes)."""
    record: Record = {}
    for workload in WORKLOADS.values():
        runs = [_stages_of(workload, scale.layers) for _ in range(scale.repeats)]
        # Its clock is of time that passes: the quickest call is the least disturbed one.
        best = min(runs, key=lambda run: run.total)
        record[workload.name] = {stage: getattr(best, stage) for stage in (*STAGES, "total")}
    return record


def _stages_of(workload: Workload, depth: int) -> results.Timings:
    config = _config(workload)
    graph = workload.fresh(depth)
    _, found = timed(lambda g: spfast.apply(g, config), graph)
    timings: results.Timings = found.timings
    return timings


def _config(workload: Workload) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(
        tp_size=workload.setting.tp_size, tp_rank=0, divisibility="assume"
    )
