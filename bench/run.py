"""The whole benchmark: ``python -m bench.run [--out FOLDER]``.

Writes results.json, results.md and pictures. bench/README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import cold, experiments, growth, machine, report

RESULTS = Path(__file__).resolve().parent / "results"


def measure(
    scale: experiments.Scale, say: experiments.Say, keep: Path | None = None
) -> dict[str, Any]:
    """Runs every experiment; raises where two contenders do not do the same work.

    Args:
        scale: how much of everything.
        say: told of every step.
        keep: a file that gets what is there so far, after each experiment.
    """
    torch.set_num_threads(1)
    begun = time.monotonic()
    record: dict[str, Any] = {"machine": machine.describe()}
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "agreement": lambda: experiments.agreement(3, say),
        "comparison": lambda: experiments.comparison(scale, say),
        "stages": lambda: experiments.stages(scale, say),
        "proofs": lambda: experiments.proofs(scale, say),
        "cold": lambda: cold.measure(scale.layers, say),
        "patterns": lambda: growth.registered(growth.PATTERNS, scale.layers, say),
        "nothing_to_do": lambda: growth.nothing_to_do(growth.SIZES[::2], say),
        "nodes": lambda: growth.nodes(growth.SIZES, say),
        "layers": lambda: experiments.layers(scale, say),
    }
    for name, step in steps.items():
        record[name] = step()
        say(f"-- {name} done after {(time.monotonic() - begun) / 60:.1f} minutes")
        if keep is not None:
            keep.write_text(json.dumps(_rounded(record), indent=1) + "\n")
    record["minutes"] = round((time.monotonic() - begun) / 60, 1)
    return record


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the record as JSON, Markdown and pictures; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    data, document = folder / "results.json", folder / "results.md"
    data.write_text(json.dumps(_rounded(record), indent=1) + "\n")
    document.write_text(report.markdown(record))
    from . import plots

    return [data, document, *plots.draw(record, folder)]


def _rounded(value: Any) -> Any:
    """Seconds to four digits: the rest is noise, and makes the file large."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Parses the command line and runs everything."""
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    record = measure(experiments.Scale(), say, arguments.out / "partial.json")
    (arguments.out / "partial.json").unlink()
    for file in write(record, arguments.out):
        print(file)


if __name__ == "__main__":
    main()
