"""Times fusion passes under torch's matcher and under ours: ``python -m bench.passes.run``.

Both get the same rules and equal graphs of 80 layers, and must make the same graphs of them. In
each round both matchers register the rules and rewrite a first graph with them, ours a second one
too: its time is what stands first in the table. Torch traces for each match of every graph anew;
ours has traced by then.

Writes passes.json and passes.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.fx as fx
from torch._inductor import pattern_matcher as torch_matcher

from spfast import pattern_matcher as our_matcher

from .. import machine
from ..equal import assert_same
from ..harness import Sample, is_noisy, timed
from .fusion import Fusion
from .table import FUSIONS

RESULTS = Path(__file__).resolve().parents[1] / "results"
TOKENS = {"static": 4096, "dynamic": None}
MATCHERS: Mapping[str, Any] = {"torch": torch_matcher, "spfast": our_matcher}
Say = Callable[[str], None]
Rewritten = tuple[fx.GraphModule, int]


@dataclass(frozen=True)
class Timing:
    """What one matcher needs for one fusion pass.

    Attributes:
        register: registering the rules.
        first: rewriting the first graph after that.
        again: rewriting a further graph.
    """

    register: Sample
    first: Sample
    again: Sample

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name).to_json() for name in ("register", "first", "again")}


def check_same(fusion: Fusion, made: Mapping[str, Rewritten], layers: int) -> int:
    """Asserts that both matchers have rewritten each site, and to the same graph.

    Returns:
        How many sites there are.

    Raises:
        AssertionError: the graphs differ, or it is not each site that was rewritten.
    """
    sites = layers * fusion.sites
    for name, (gm, count) in made.items():
        if count != sites:
            raise AssertionError(f"{fusion.name}: {name} rewrote {count} of {sites} sites")
        # With several outputs torch inserts too early and leaves the order to its callers.
        torch_matcher.stable_topological_sort(gm.graph)
        gm.graph.lint()
    ours, theirs = made["spfast"][0].graph, made["torch"][0].graph
    assert_same(ours, theirs, 1, ("spfast", "torch"))
    return sites


def measure(fusion: Fusion, layers: int, tokens: int | None, rounds: int) -> dict[str, Timing]:
    """Times both matchers in turn; what they make in the first round is compared."""
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in MATCHERS}
    for index in range(rounds):
        made: dict[str, Rewritten] = {}
        for name, matcher in MATCHERS.items():
            register, rules = timed(lambda m: fusion.register(m, layers), matcher)
            gm = fusion.build(layers, tokens)
            first, count = timed(rules.apply, gm)
            made[name] = gm, count
            again = first  # torch does the same for every graph
            if name != "torch":
                again, _ = timed(rules.apply, fusion.build(layers, tokens))
            runs[name].append((register, first, again))
        if index == 0:
            check_same(fusion, made, layers)
    return {name: Timing(*map(_sample, zip(*found, strict=True))) for name, found in runs.items()}


def _sample(seconds: Sequence[float]) -> Sample:
    return Sample(tuple(seconds), is_noisy(seconds))


def record(names: Sequence[str], layers: int, rounds: int, say: Say) -> dict[str, Any]:
    """Checks and times the passes; plain data."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    rows: list[dict[str, Any]] = []
    for name in names:
        for mode, tokens in TOKENS.items():
            found = measure(FUSIONS[name], layers, tokens, rounds)
            row = {"pass": name, "mode": mode, "sites": layers * FUSIONS[name].sites}
            row |= {matcher: timing.to_json() for matcher, timing in found.items()}
            rows.append(row)
            say(_line(row))
    return {
        "machine": machine.describe(),
        "layers": layers,
        "rounds": rounds,
        "rows": rows,
        "sums": {mode: _sums([r for r in rows if r["mode"] == mode]) for mode in TOKENS},
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }


def _median(row: Mapping[str, Any], matcher: str, what: str) -> float:
    found = row[matcher][what]["median_s"]
    assert isinstance(found, float)
    return found


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Over all passes: seconds of each matcher, and how many times faster ours is."""
    sums = {
        f"{matcher}_{what}_s": sum(_median(row, matcher, what) for row in rows)
        for matcher in MATCHERS
        for what in ("register", "first", "again")
    }
    whole = {m: sums[f"{m}_register_s"] + sums[f"{m}_first_s"] for m in MATCHERS}
    sums["pass_ratio"] = sums["torch_again_s"] / sums["spfast_again_s"]
    sums["first_ratio"] = whole["torch"] / whole["spfast"]
    return sums


def _cells(row: Mapping[str, Any]) -> list[str]:
    old, new = _median(row, "torch", "again"), _median(row, "spfast", "again")
    whole = [_median(row, m, "register") + _median(row, m, "first") for m in MATCHERS]
    noisy = any(row[m][w]["noisy"] for m in MATCHERS for w in ("first", "again"))
    return [
        row["pass"] + (" (noisy)" if noisy else ""),
        row["mode"],
        str(row["sites"]),
        f"{old * 1e3:,.0f}",
        f"{new * 1e3:.1f}",
        f"{old / new:.0f}x",
        f"{whole[0] * 1e3:,.0f}",
        f"{whole[1] * 1e3:,.0f}",
        f"{whole[0] / whole[1]:.1f}x",
    ]


def _line(row: Mapping[str, Any]) -> str:
    return " | ".join(_cells(row))


def markdown(data: Mapping[str, Any]) -> str:
    """The table, with the sums of both modes."""
    head = [
        "pass", "mode", "sites", "torch ms", "spfast ms", "faster",
        "torch, first graph ms", "spfast, first graph ms", "faster",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += ["| " + _line(row) + " |" for row in data["rows"]]
    for mode, sums in data["sums"].items():
        whole = [sums[f"{m}_register_s"] + sums[f"{m}_first_s"] for m in MATCHERS]
        cells = [
            "**sum**", mode, "",
            f"{sums['torch_again_s'] * 1e3:,.0f}", f"{sums['spfast_again_s'] * 1e3:.1f}",
            f"**{sums['pass_ratio']:.0f}x**",
            f"{whole[0] * 1e3:,.0f}", f"{whole[1] * 1e3:,.0f}", f"**{sums['first_ratio']:.1f}x**",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        f'{data["layers"]} layers, medians of {data["rounds"]} rounds. "First graph" includes '
        "registering the rules and all tracing."
    )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.passes.run", description=__doc__)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="passes whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    names = [name for name in FUSIONS if options.only in name]
    if not names:
        parser.error(f"no pass is called {options.only!r}; there are: {', '.join(FUSIONS)}")
    data = record(names, options.layers, options.rounds, print)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "passes.json").write_text(json.dumps(data, indent=1) + "\n")
    (options.out / "passes.md").write_text(markdown(data))
    print(markdown(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
