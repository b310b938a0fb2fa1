"""The results as tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Record = dict[str, Any]
HEADER = (
    "",
    "ms",
    "least",
    "host",
    "of plain",
    "hidden",
    "as a graph",
    "hidden so",
    "peak GiB",
    "compile s",
    "pass ms",
    "difference",
    "error",
    "moved by",
)


def markdown(record: Record) -> str:
    """One table a case.

    Ratios are to the first contender; hidden is the share of its collectives' time that is gone,
    also where all steps are replayed as CUDA graphs; difference is from the first contender, error
    from float64.
    """
    where = record["where"]
    lines = ["# One step of a tensor-parallel decoder", ""]
    lines += [f"{where['ranks']} x {where['device']}, torch {where['torch']}, {where['when']}.", ""]
    for measured in record["cases"]:
        case, rows = measured["case"], measured["contenders"]
        lines += [f"## {case['step']}, {case['name']}", ""]
        said = [f"medians of {case['iterations']}"]
        said += [measured[key] for key in ("when", "note") if key in measured]
        lines += [f"{case['tokens']} tokens, {case['dtype']}; {', '.join(said)}.", ""]
        lines += [_line(HEADER), "|---" * len(HEADER) + "|"]
        timed = [row for row in rows if "median_ms" in row]
        first = timed[0] if timed else None
        limit = next((row for row in timed if row["name"].startswith("limit")), None)
        lines += [_row(row, first, limit) for row in rows]
        lines.append("")
        if any(row.get("profile") for row in rows):
            lines += _profiles(rows)
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _row(row: Record, first: Record | None, limit: Record | None) -> str:
    if "error" in row or first is None:
        failed = [row["name"], f"failed: {row.get('error', '')}"]
        return _line(failed + [""] * (len(HEADER) - len(failed)))
    ms, plain = row["median_ms"], first["median_ms"]
    return _line(
        (
            row["name"],
            f"{ms:.2f}",
            f"{row['least_ms']:.2f}",
            f"{row['host_ms']:.2f}",
            f"{ms / plain:.3f}",
            _hidden(row, first, limit, "median_ms"),
            _number(row.get("graph_ms"), ".2f"),
            _hidden(row, first, limit, "graph_ms"),
            _number(row["peak_gib"], ".2f"),
            f"{row['compile_s']:.1f}",
            f"{row['pass_ms']:.0f}",
            _number(row.get("difference"), ".1e"),
            _number(row.get("error_f64"), ".3e"),
            ", ".join(f"{n} {name}" for name, n in row["collectives"].items()) or "none",
        )
    )


def _hidden(row: Record, first: Record, limit: Record | None, key: str) -> str:
    """The share of the first's collectives that is gone; empty where it cannot be told."""
    if limit is None or not all(key in each for each in (row, first, limit)):
        return ""
    if limit[key] == first[key]:
        return ""
    return f"{(first[key] - row[key]) / (first[key] - limit[key]):.0%}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _profiles(rows: list[Record]) -> list[str]:
    """One profiled step of each, on the first rank: milliseconds of kernels by kind."""
    kinds = sorted({kind for row in rows for kind in (row.get("profile") or {}).get("busy", ())})
    header = ("one step's kernels, ms", "span", "computes", "exposed", *kinds)
    lines = [_line(header), "|---" * len(header) + "|"]
    for row in rows:
        found = row.get("profile")
        if found:
            busy = [_number(found["busy"].get(kind), ".2f") for kind in kinds]
            cells = (f"{found[key]:.2f}" for key in ("span", "computes", "exposed"))
            lines.append(_line((row["name"], *cells, *busy)))
    return [*lines, ""]


def draw(record: Record, file: Path) -> None:
    """Bars of the medians, each with its least."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = record["cases"]
    wide = min(2, len(cases))
    high = -(-len(cases) // wide)
    figure, axes = plt.subplots(high, wide, figsize=(6.5 * wide, 3.6 * high), squeeze=False)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, measured in zip(axes.flat, cases, strict=False):
        rows = [row for row in reversed(measured["contenders"]) if "median_ms" in row]
        names = [row["name"] for row in rows]
        colours = ["#d62728" if "spfast" in name else "#7f7f7f" for name in names]
        axis.barh(names, [row["median_ms"] for row in rows], color=colours)
        axis.plot([row["least_ms"] for row in rows], names, "k|", markersize=12)
        axis.set_xlabel("ms a step (bar: median, mark: least)")
        axis.set_title(f"{measured['case']['step']}, {measured['case']['name']}")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
