"""The results as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Record = dict[str, Any]


def markdown(record: Record) -> str:
    """One table a case; ratios are to the first contender."""
    where = record["where"]
    lines = ["# One training step, forward and backward", ""]
    lines += [f"{where['ranks']} x {where['device']}, torch {where['torch']}, {where['when']}.", ""]
    for measured in record["cases"]:
        case = measured["case"]
        lines += [f"## {case['name']}", ""]
        lines += [f"{case['tokens']} tokens, {case['dtype']}; medians of {case['iterations']}.", ""]
        lines += [
            "| | ms | least | of plain | peak GiB | compile s | pass ms | difference | moved by |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        first = next((row for row in measured["contenders"] if "median_ms" in row), None)
        lines += [_row(row, first) for row in measured["contenders"]]
        lines.append("")
    return "\n".join(lines)


def _row(row: Record, first: Record | None) -> str:
    if "error" in row or first is None:
        return f"| {row['name']} | failed: {row.get('error', '')} " + "| " * 7 + "|"
    peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}"
    far = f"{row['difference']:.1e}" if "difference" in row else ""
    moved = ", ".join(f"{count} {name}" for name, count in row["collectives"].items()) or "none"
    ratio = row["median_ms"] / first["median_ms"]
    cells = [row["name"], f"{row['median_ms']:.1f}", f"{row['least_ms']:.1f}", f"{ratio:.3f}"]
    cells += [peak, f"{row['compile_s']:.1f}", f"{row['pass_ms']:.0f}", far, moved]
    return f"| {' | '.join(cells)} |"


def draw(record: Record, file: Path) -> None:
    """Bars of the medians, each with its least."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = record["cases"]
    figure, axes = plt.subplots(1, len(cases), figsize=(6.5 * len(cases), 4), squeeze=False)
    for axis, measured in zip(axes[0], cases, strict=True):
        rows = [row for row in reversed(measured["contenders"]) if "median_ms" in row]
        names = [row["name"] for row in rows]
        colours = ["#d62728" if "spfast" in name else "#7f7f7f" for name in names]
        axis.barh(names, [row["median_ms"] for row in rows], color=colours)
        axis.plot([row["least_ms"] for row in rows], names, "k|", markersize=12)
        axis.set_xlabel("ms a step (bar: median, mark: least)")
        axis.set_title(measured["case"]["name"])
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
