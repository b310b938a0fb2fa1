"""How long Inductor's FX passes take with torch's matcher and with ours, on six real models.

    python -m bench.compile_time                      all, 12 layers, half an hour and more
    python -m bench.compile_time --only llama --compile training-dynamic --layers 24

A model is traced once. Then both run the passes over copies of its graphs, in turn. ``first`` is
with nothing kept from before, as in the first compile of a process; ``again`` with what earlier
graphs left, as for another graph of the model. The whole compile is what tracing and the passes
take together, with no code generated. All times are processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.compile_models import FAMILIES, Mode, Stage, copied, stages
from spfast.integrations import inductor
from spfast.pattern_matcher.shelf import Shelf

__all__ = ["MODES", "RESULTS", "Cell", "forget", "measure", "table"]

MODES = {
    "inference-static": Mode(),
    "inference-dynamic": Mode(dynamic=True),
    "inference-frozen": Mode(frozen=True),
    "training-static": Mode(training=True),
    "training-dynamic": Mode(training=True, dynamic=True),
}
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cell:
    """One model, compiled in one way; seconds of processor time.

    Attributes:
        model: Its family.
        mode: A key of MODES.
        nodes: Of all graphs that the passes got.
        whole: Of a compile with torch's matcher, without code generation.
        torch_first: Of all passes, the median of what was measured; and so on.
    """

    model: str
    mode: str
    nodes: int
    whole: float
    torch_first: float
    ours_first: float
    torch_again: float
    ours_again: float

    @property
    def share(self) -> float:
        """Which part of a whole compile the passes are, with torch's matcher."""
        return self.torch_first / self.whole

    @property
    def saved(self) -> float:
        """Which part of a whole compile is saved."""
        return (self.torch_first - self.ours_first) / self.whole


def measure(model: str, layers: int, mode: str, rounds: int) -> Cell:
    """Measures one model: torch and ours in turn, `rounds` times each."""
    start = time.process_time()
    found = stages(model, layers, MODES[mode])
    whole = time.process_time() - start
    seconds: dict[str, list[float]] = {}
    for _, when, side in itertools.product(range(rounds), ("first", "again"), ("ours", "torch")):
        if when == "first" and side == "ours":
            forget()
        how: Callable[[], Any] = inductor.patched if side == "ours" else contextlib.nullcontext
        seconds.setdefault(f"{side}_{when}", []).append(_time(found, how))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    nodes = sum(len(stage.graph.graph.nodes) for stage in found)
    return Cell(model, mode, nodes, whole, **medians)


def _time(found: Sequence[Stage], how: Callable[[], Any]) -> float:
    graphs = [copied(stage.graph) for stage in found]
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        with how():
            for stage, graph in zip(found, graphs, strict=True):
                stage.run(graph)
        return time.process_time() - start
    finally:
        gc.enable()


def forget() -> None:
    """Takes away what our matcher keeps on torch's objects."""
    for found in gc.get_objects():
        if type(found) is Shelf:
            found.twin = None
            found.route = None


def table(cells: Sequence[Cell]) -> str:
    """The cells and their sums as Markdown; times in milliseconds."""
    lines = [
        "| model | compile | nodes | first: torch | ours | | again: torch | ours | "
        "| | of a compile | saved |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(cell.model, cell.mode, cell) for cell in cells]
    names = ("nodes", "whole", "torch_first", "ours_first", "torch_again", "ours_again")
    sums = {name: sum(getattr(cell, name) for cell in cells) for name in names}
    lines.append(_row("**sum**", "", Cell("", "", **sums)))
    for when in ("first", "again"):
        ratios = [_ratio(cell, when) for cell in cells]
        lines.append(
            f"\n{when}: {min(ratios):.1f}x to {max(ratios):.1f}x, "
            f"median {statistics.median(ratios):.1f}x"
        )
    return "\n".join(lines) + "\n"


def _ratio(cell: Cell, when: str) -> float:
    ratio: float = getattr(cell, f"torch_{when}") / getattr(cell, f"ours_{when}")
    return ratio


def _row(model: str, mode: str, cell: Cell) -> str:
    times = []
    for when in ("first", "again"):
        theirs, ours = getattr(cell, f"torch_{when}"), getattr(cell, f"ours_{when}")
        times.append(f"{theirs * 1e3:.0f} | {ours * 1e3:.0f} | {_ratio(cell, when):.1f}x")
    shares = f"{cell.share:.1%} | {cell.saved:.1%}"
    return f"| {model} | {mode} | {cell.nodes} | {' | '.join(times)} | {shares} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--compile", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    # Torch's patterns are traced once a process, whichever matcher runs them.
    stages("llama", 1, MODES["training-dynamic"])
    cells = []
    for model, mode in itertools.product(options.only, options.compile):
        cells.append(measure(model, options.layers, mode, options.rounds))
        print(_row(model, cells[-1].mode, cells[-1]), flush=True)
    about = {"layers": options.layers, "rounds": options.rounds, "machine": machine.describe()}
    data = {**about, "cells": [asdict(cell) for cell in cells]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "compile_time.json").write_text(json.dumps(data, indent=1) + "\n")
    head = f"# Inductor's FX passes over models of {options.layers} layers, milliseconds\n\n"
    (options.out / "compile_time.md").write_text(head + table(cells))
    print(table(cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
