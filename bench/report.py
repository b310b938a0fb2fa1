"""Results as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import cold

Record = dict[str, Any]

TARGETS = (
    ("vLLM's own pass, static", ">= 270x", lambda r: _times(r, "static", "vLLM's own pass")),
    ("vLLM's own pass, dynamic", ">= 330x", lambda r: _times(r, "dynamic", "vLLM's own pass")),
    ("PatternMatcherPass, static", ">= 80x", lambda r: _times(r, "static", "PatternMatcherPass")),
    ("PatternMatcherPass, dynamic", ">= 80x", lambda r: _times(r, "dynamic", "PatternMatcherPass")),
    ("against edits by hand, worst workload", "<= 0.7x", lambda r: _worst_hand(r)),
    (
        "encode + match + plan, slowest size",
        ">= 2.5 M nodes/s",
        lambda r: _slowest(r, "analysis_s"),
    ),
    ("the same, best call of each size", "", lambda r: _slowest(r, "analysis_best_s")),
    ("its growth exponent", "<= 1.05", lambda r: f"{r['nodes']['analysis_exponent']:.3f}"),
    (
        "growth exponent of the whole pass",
        "<= 1.10",
        lambda r: f"{r['nodes']['pass_exponent']:.3f}",
    ),
    ("bytes a node in the table", "<= 96", lambda r: _bytes(r)),
    ("1,000 patterns against 1", "<= 3x", lambda r: f"{r['patterns']['factor']:.2f}x"),
    ("nothing to do, largest graph", "< 50 us", lambda r: _nothing(r)),
    ("first apply of a process against a warm one", "<= 2.5x", lambda r: _worst_cold(r)),
    ("the verifier against the pass, worst workload", "< 5x", lambda r: _worst_proof(r)),
)


def markdown(record: Record) -> str:
    """The whole document."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Record) -> Iterator[str]:
    machine = record["machine"]
    yield "# Benchmark results"
    yield ""
    vllm = f"vLLM {machine['vllm']}" if machine["vllm"] else "vLLM's own pass not run"
    parts = (
        machine["when"],
        f"commit {machine['commit']}",
        machine["cpu"],
        f"{machine['cores']} cores",
        f"load {machine['load_at_start']} when begun",
        f"torch {machine['torch']}",
        f"Python {machine['python']}",
        vllm,
    )
    yield ", ".join(parts) + "."
    yield ""
    yield "Median processor time of at least 7 calls; [README](../README.md) says what it means."
    if "note" in record:
        yield f"\n{record['note']}"
    yield from _targets(record)
    yield from _comparison(record)
    yield from _stages(record)
    yield from _proofs(record)
    yield from _cold(record["cold"])
    yield from _layers(record)
    yield from _nodes(record)
    yield from _patterns(record)


def _targets(record: Record) -> Iterator[str]:
    yield "\n## What was aimed at\n"
    yield "| what | aim | measured |\n|---|---|---|"
    for what, aim, measured in TARGETS:
        yield f"| {what} | {aim} | {measured(record)} |"


def _times(record: Record, kind: str, name: str) -> str:
    times = record["comparison"][f"vLLM IR bf16, {kind}"]["times_spfast"].get(name)
    return "not run" if times is None else f"{times:.0f}x"


def _worst_hand(record: Record) -> str:
    rows = record["comparison"].items()
    worst = max((1 / row["times_spfast"]["edits by hand"], name) for name, row in rows)
    return f"{worst[0]:.2f}x ({worst[1]})"


def _slowest(record: Record, key: str) -> str:
    points = record["nodes"]["points"]
    rates = [(p["nodes"] / p[key], p["nodes"]) for p in points if key in p]
    if not rates:
        return "not run"
    rate, nodes = min(rates)
    return f"{rate / 1e6:.2f} M nodes/s (at {nodes:,} nodes)"


def _bytes(record: Record) -> str:
    return f"{max(p['bytes_a_node'] for p in record['nodes']['points']):.0f}"


def _nothing(record: Record) -> str:
    point = record["nothing_to_do"]["points"][-1]
    return f"{point['median_s'] * 1e6:.0f} us ({point['nodes']:,} nodes)"


def _comparison(record: Record) -> Iterator[str]:
    rows = record["comparison"]
    names = list(dict.fromkeys(n for row in rows.values() for n in row["contenders"]))
    depth = next(iter(rows.values()))["layers"]
    yield f"\n## Everybody, {depth} layers\n"
    yield "Milliseconds, and in brackets how many times spfast's.\n"
    yield "| workload | nodes | sites | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 3) + "|"
    for name, row in rows.items():
        cells = [_cell(row, contender) for contender in names]
        yield f"| {name} | {row['nodes']:,} | {row['sites']} | " + " | ".join(cells) + " |"


def _cell(row: Record, contender: str) -> str:
    sample = row["contenders"].get(contender)
    if sample is None:
        return ""
    mark = " (noisy)" if sample["noisy"] else ""
    times = "" if contender == "spfast" else f" ({row['times_spfast'][contender]:.3g}x)"
    return f"{sample['median_s'] * 1e3:.1f}{times}{mark}"


def _stages(record: Record) -> Iterator[str]:
    rows = record["stages"]
    names = list(next(iter(rows.values())))
    yield "\n## Where spfast's time goes\n"
    yield "Milliseconds that pass, by its own clock, in the quickest of 7 calls.\n"
    yield "| workload | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for name, row in rows.items():
        yield f"| {name} | " + " | ".join(f"{row[k] * 1e3:.2f}" for k in names) + " |"
    yield "\n![stages](stages.png)"


def _worst_proof(record: Record) -> str:
    worst = max(
        (row["proof"], f"{name}, {depth} layers")
        for name, rows in record["proofs"].items()
        for depth, row in rows.items()
    )
    return f"{worst[0]:.1f}x ({worst[1]})"


def _proofs(record: Record) -> Iterator[str]:
    rows = record["proofs"]
    depths = list(next(iter(rows.values())))
    yield "\n## What a proof costs\n"
    yield "Milliseconds of the pass and of one with `validate=True`; the proof alone, in passes.\n"
    yield "| workload | " + " | ".join(f"{depth} layers" for depth in depths) + " |"
    yield "|---" * (len(depths) + 1) + "|"
    for name, row in rows.items():
        yield f"| {name} | " + " | ".join(_proof(row[depth]) for depth in depths) + " |"


def _proof(row: Record) -> str:
    mark = " (noisy)" if row["noisy"] else ""
    return f"{row['pass_s'] * 1e3:.1f}, {row['proved_s'] * 1e3:.1f} ({row['proof']:.1f}x){mark}"


def _cold(record: Record) -> Iterator[str]:
    yield f"\n## The first call of a process, {record['layers']} layers\n"
    yield f"Milliseconds in fresh processes, of this build and of {record['old_commit']}.\n"
    if record["absent"]:
        yield f"{record['absent']}\n"
    yield "| what | first | warm | first, before | warm, before |\n|---|---|---|---|---|"
    for title, row in cold.rows(record).items():
        cells = [
            f"{found[key] * 1e3:.1f}" if key in (found := row.get(who, {})) else ""
            for who in ("new", "old")
            for key in ("first_s", "warm_s")
        ]
        yield f"| {title} | " + " | ".join(cells) + " |"
    yield "\n![cold](cold.png)"


def _worst_cold(record: Record) -> str:
    ratio, name = cold.worst(record["cold"])
    return f"{ratio:.2f}x ({name})"


def _layers(record: Record) -> Iterator[str]:
    yield "\n## Against the number of layers\n"
    for name, curves in record["layers"].items():
        depths = sorted({p["layers"] for curve in curves.values() for p in curve})
        yield f"{name}, milliseconds:\n"
        yield "| contender | " + " | ".join(f"{d:,}" for d in depths) + " |"
        yield "|---" * (len(depths) + 1) + "|"
        for contender, curve in curves.items():
            found = {p["layers"]: f"{p['median_s'] * 1e3:.1f}" for p in curve}
            yield f"| {contender} | " + " | ".join(found.get(d, "") for d in depths) + " |"
        yield ""
    yield "![layers](layers.png)"


def _nodes(record: Record) -> Iterator[str]:
    yield "\n## Against the number of nodes\n"
    columns = ("nodes", "encode ms", "match ms", "plan ms", "M nodes/s", "best", "whole pass ms")
    yield f"| {' | '.join(columns)} | bytes a node | peak MB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for p in record["nodes"]["points"]:
        stages = [f"{p['stages_s'][k] * 1e3:.2f}" for k in ("encode", "match", "plan")]
        once = "" if p["pass_runs"] > 1 else " (one call)"
        peak = "" if p["peak_bytes"] is None else f"{p['peak_bytes'] / 1e6:.1f}"
        yield (
            f"| {p['nodes']:,} | {' | '.join(stages)} | {p['nodes'] / p['analysis_s'] / 1e6:.2f} | "
            f"{_best(p)} | "
            f"{p['pass_s'] * 1e3:.1f}{once} | {p['bytes_a_node']:.0f} | {peak} |"
        )
    yield "\n![nodes](nodes.png) ![memory](memory.png)"
    yield "\nNothing to do (no all_reduce in the graph):\n"
    yield "| nodes | us |\n|---|---|"
    for p in record["nothing_to_do"]["points"]:
        yield f"| {p['nodes']:,} | {p['median_s'] * 1e6:.1f} |"


def _best(point: Record) -> str:
    best = point.get("analysis_best_s")
    return "" if best is None else f"{point['nodes'] / best / 1e6:.2f}"


def _patterns(record: Record) -> Iterator[str]:
    found = record["patterns"]
    yield f"\n## Against the number of registered patterns, {found['layers']} layers\n"
    yield "| patterns | ms |\n|---|---|"
    for p in found["points"]:
        yield f"| {p['patterns']:,} | {p['median_s'] * 1e3:.2f} |"
    yield "\n![patterns](patterns.png)"
