"""Results as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

Record = dict[str, Any]

COLOURS = {
    "spfast": "#d62728",
    "edits by hand": "#555555",
    "vLLM's own pass": "#1f77b4",
    "PatternMatcherPass": "#ff7f0e",
    "PatternMatcherPass, trace cached": "#2ca02c",
    "torch.fx.subgraph_rewriter": "#9467bd",
    "python reference": "#8c564b",
}
STAGE_NAMES = ("encode", "match", "plan", "commit", "meta")


def draw(record: Record, folder: Path) -> list[Path]:
    """Draws every picture into ``folder`` and returns the files."""
    pictures = {
        "layers": _layers,
        "stages": _stages,
        "nodes": _nodes,
        "memory": _memory,
        "patterns": _patterns,
    }
    files = []
    for name, picture in pictures.items():
        figure = picture(record)
        files.append(folder / f"{name}.png")
        figure.tight_layout()
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
    return [*files, draw_cold(record["cold"], folder)]


def draw_cold(record: Record, folder: Path) -> Path:
    """First calls beside warm ones, each build's; returns the file."""
    from .cold import rows

    bars: list[tuple[str, float, str]] = []
    for title, row in rows(record).items():
        for who, found in row.items():
            build = "this build" if who == "new" else record["old_commit"]
            colour = "#d62728" if who == "new" else "#555555"
            bars.append((f"{title}, {build}", found["first_s"] * 1e3, colour))
            if "warm_s" in found:
                bars.append((f"warm, {build}", found["warm_s"] * 1e3, "#bbbbbb"))
    figure, axis = plt.subplots(figsize=(8, 1 + 0.18 * len(bars)))
    places = range(len(bars))[::-1]
    axis.barh(places, [bar[1] for bar in bars], color=[bar[2] for bar in bars])
    axis.set_yticks(places, [bar[0] for bar in bars], fontsize=7)
    axis.set(xscale="log", xlabel=f"ms, {record['layers']} layers, fresh processes")
    axis.grid(True, axis="x", which="both", alpha=0.2)
    figure.tight_layout()
    file = folder / "cold.png"
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def _layers(record: Record) -> Any:
    count = len(record["layers"])
    figure, grid = plt.subplots(1, count, figsize=(6 * count, 5), sharey=True, squeeze=False)
    axes = grid[0]
    for axis, (name, curves) in zip(axes, record["layers"].items(), strict=True):
        for contender, curve in curves.items():
            x = [point["layers"] for point in curve]
            y = [point["median_s"] * 1e3 for point in curve]
            low = [point["q1_s"] * 1e3 for point in curve]
            high = [point["q3_s"] * 1e3 for point in curve]
            width = 2.5 if contender == "spfast" else 1.2
            (line,) = axis.loglog(
                x, y, marker="o", ms=3, lw=width, label=contender, color=COLOURS.get(contender)
            )
            axis.fill_between(x, low, high, alpha=0.2, color=line.get_color())
        axis.set(title=name, xlabel="layers")
        axis.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("whole pass, ms (median, quartiles)")
    axes[-1].legend(fontsize=8)
    return figure


def _stages(record: Record) -> Any:
    figure, axis = plt.subplots(figsize=(9, 5))
    names = list(record["stages"])
    left = [0.0] * len(names)
    for stage in STAGE_NAMES:
        values = [record["stages"][name][stage] * 1e3 for name in names]
        axis.barh(names, values, left=left, label=stage)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axis.invert_yaxis()
    axis.set(xlabel="ms, 80 layers")
    axis.legend()
    return figure


def _nodes(record: Record) -> Any:
    figure, axis = plt.subplots(figsize=(7, 5))
    points = record["nodes"]["points"]
    x = [point["nodes"] for point in points]
    exponents = record["nodes"]["analysis_exponent"], record["nodes"]["pass_exponent"]
    axis.loglog(
        x,
        [point["pass_s"] for point in points],
        marker="o",
        label=f"whole pass (exponent {exponents[1]:.2f})",
    )
    axis.loglog(
        x,
        [point["analysis_s"] for point in points],
        marker="o",
        label=f"encode + match + plan (exponent {exponents[0]:.2f})",
    )
    axis.loglog(x, [n / 2e6 for n in x], ls=":", color="grey", label="2 million nodes a second")
    axis.set(xlabel="nodes", ylabel="seconds")
    axis.grid(True, which="both", alpha=0.2)
    axis.legend()
    return figure


def _memory(record: Record) -> Any:
    figure, axis = plt.subplots(figsize=(7, 5))
    points = record["nodes"]["points"]
    x = [point["nodes"] for point in points]
    axis.loglog(x, [point["table_bytes"] / 1e6 for point in points], marker="o", label="the table")
    peaks = [point for point in points if point["peak_bytes"]]
    axis.loglog(
        [point["nodes"] for point in peaks],
        [point["peak_bytes"] / 1e6 for point in peaks],
        marker="o",
        label="growth of the process in encode + match + plan",
    )
    axis.loglog(x, [n * 96 / 1e6 for n in x], ls=":", color="grey", label="96 bytes a node")
    axis.set(xlabel="nodes", ylabel="MB")
    axis.grid(True, which="both", alpha=0.2)
    axis.legend()
    return figure


def _patterns(record: Record) -> Any:
    figure, axis = plt.subplots(figsize=(7, 5))
    points = record["patterns"]["points"]
    x = [point["patterns"] for point in points]
    axis.semilogx(x, [point["median_s"] * 1e3 for point in points], marker="o", label="spfast")
    one = points[0]["median_s"] * 1e3
    axis.axhline(3 * one, ls=":", color="grey", label="three times one pattern's")
    axis.set(xlabel="registered patterns", ylabel="whole pass, ms", ylim=(0, None))
    axis.grid(True, which="both", alpha=0.2)
    axis.legend()
    return figure
