"""How spfast's time and memory grow with the number of nodes and of registered patterns."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.fx as fx

import spfast
from spfast.patterns import Registry, default_registry, ops
from spfast.ranks.groups import resolve_group
from spfast.run.all_reduces import AllReduces
from spfast.run.run import Run

from .harness import REPEATS, Contender, compare, growth_exponent, is_noisy, repeat, timed
from .workloads import vllm_ir
from .workloads.catalogue import WORKLOADS

Say = Callable[[str], None]
Record = dict[str, Any]

CONFIG = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, divisibility="assume")
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
FRESH_UP_TO = 100_000  # nodes; a larger graph takes longer to make than seven calls are worth
PATTERNS = (1, 3, 10, 30, 100, 300, 1_000)
NODES_PER_LAYER = 24


def nodes(sizes: Sequence[int], say: Say, repeats: int = REPEATS) -> Record:
    """Time and memory against the number of nodes of one graph."""
    points = []
    for size in sizes:
        points.append(_point(size, repeats))
        point = points[-1]
        say(
            f"{point['nodes']:,} nodes: encode + match + plan "
            f"{point['nodes'] / point['analysis_s'] / 1e6:.2f} million a second, "
            f"{point['bytes_a_node']:.0f} bytes each"
        )
    counts = [point["nodes"] for point in points]
    whole = [point for point in points if point["pass_s"] is not None]
    return {
        "points": points,
        "analysis_exponent": growth_exponent(counts, [point["analysis_s"] for point in points]),
        "pass_exponent": growth_exponent(
            [point["nodes"] for point in whole], [point["pass_s"] for point in whole]
        ),
    }


def _point(size: int, repeats: int) -> Record:
    depth = max(1, size // NODES_PER_LAYER)
    graph = vllm_ir.build(depth)
    _analysis(graph)
    gc.freeze()
    stages = [_analysis(graph) for _ in range(repeats if size > FRESH_UP_TO else 3 * repeats)]
    gc.unfreeze()
    totals = [sum(stage.values()) for stage in stages]
    table = spfast.NodeTable.from_graph(graph)
    count = len(graph.nodes)
    point: Record = {
        "nodes": count,
        "analysis_s": statistics.median(totals),
        "analysis_best_s": min(totals),
        "analysis_noisy": is_noisy(totals),
        "stages_s": {k: statistics.median(s[k] for s in stages) for k in stages[0]},
        "bytes_a_node": table.memory_bytes() / count,
        "table_bytes": table.memory_bytes(),
        "peak_bytes": _peak(lambda: _analysis(graph)),
        "runs": repeats,
    }
    del table
    if size <= FRESH_UP_TO:
        sample = repeat(_apply, lambda: vllm_ir.build(depth), repeats)
        point |= {"pass_s": sample.median, "pass_runs": repeats, "pass_noisy": sample.noisy}
    else:
        point |= {"pass_s": timed(_apply, graph)[0], "pass_runs": 1, "pass_noisy": False}
    return point


def _apply(graph: fx.Graph) -> int:
    return spfast.apply(graph, CONFIG).matched_count


def _analysis(graph: fx.Graph) -> dict[str, float]:
    """Seconds of encode, match and plan; the graph stays as it is."""
    found = AllReduces(True, (), {})
    encode, run = timed(lambda g: Run(g, CONFIG, default_registry(), found), graph)
    native = run.native
    run.set_groups([resolve_group(group, CONFIG) for group in native.groups()])
    match, _ = timed(lambda native: native.match(), native)

    plan, _ = timed(lambda native: native.plan(lambda tokens, group: ("", False)), native)
    return {"encode": encode, "match": match, "plan": plan}


def _peak(run: Callable[[], object]) -> int | None:
    """How far the process grows beyond what it is, in bytes; None where nobody counts it."""
    try:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def nothing_to_do(sizes: Sequence[int], say: Say) -> Record:
    """A call on a graph without any all_reduce."""
    points = []
    for size in sizes:
        graph = _without_anchor(size)
        sample = repeat(_apply, partial(_same, graph), REPEATS, warmup=3)
        points.append({"nodes": len(graph.nodes), **sample.to_json()})
        say(f"nothing to do in {len(graph.nodes):,} nodes: {sample.median * 1e6:.1f} us")
    return {"points": points}


def _same(graph: fx.Graph) -> fx.Graph:
    return graph  # a call that changes nothing may get it again


def _without_anchor(size: int) -> fx.Graph:
    graph = fx.Graph()
    node = graph.placeholder("x")
    for _ in range(size - 2):
        node = graph.call_function(torch.ops.aten.relu.default, (node,))
    graph.output((node,))
    return graph


# --- registered patterns --------------------------------------------------------------------------


def registered(counts: Sequence[int], depth: int, say: Say) -> Record:
    """Time against the number of patterns that share an anchor and most of their form.

    The patterns differ in the epsilon that they ask for, as those of vLLM's pass do, and one of
    them is right. The others must each be found wrong, at every site.
    """
    workload = WORKLOADS["vLLM IR bf16, static"]
    contenders = [_with_patterns(count) for count in counts]
    sites = 2 * depth  # all but the first, which has no residual
    samples = compare(contenders, lambda: workload.fresh(depth), sites, say=say)
    points = [
        {"patterns": count, **samples[contender.name].to_json()}
        for count, contender in zip(counts, contenders, strict=True)
    ]
    factor = points[-1]["median_s"] / points[0]["median_s"]
    say(f"{counts[-1]:,} patterns take {factor:.2f} times as long as {counts[0]}")
    return {"points": points, "factor": factor, "layers": depth}


def _with_patterns(count: int) -> Contender:
    registry = Registry()
    source = default_registry()
    for dialect in source.dialects():
        if dialect.name == "vllm_ir":
            registry.add_dialect(dialect)
    for i in range(count):
        epsilon = 1e-5 if i == 0 else 1e-4 + i * 1e-6
        _register(registry, f"add_norm_{i}", epsilon)

    def run(graph: fx.Graph) -> int:
        return spfast.apply(graph, CONFIG, registry=registry).matched_count

    return Contender(f"{count} patterns", run)


def _register(registry: Registry, name: str, epsilon: float) -> None:
    from spfast.patterns import Rows, Value

    @registry.register(name, dialect="vllm_ir")
    def add_norm(reduced: Value, residual: Rows, weight: Value) -> tuple[Value, Value]:
        both = ops.vllm_ir.fused_add_rms_norm(reduced, residual, weight, epsilon)
        return both[0], both[1]
