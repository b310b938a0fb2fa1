"""Where the time of a whole compile goes, and how much of it our matcher saves.

    python -m bench.compile_phases                    a Llama of 12 layers, training, dynamic
    python -m bench.compile_phases --model bert --compile inference-static --layers 2

The model is compiled with torch's passes and with ours, in turn, and no code is generated. Each
phase is one that torch itself names, without those inside of it. All times are processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch._dynamo.utils import ChromiumEventLogger

from bench import machine
from bench.compile_models import FAMILIES, stages
from bench.compile_time import MODES, RESULTS, forget
from spfast.integrations import inductor

__all__ = ["PASSES", "measure", "table"]

# Inductor's FX passes, each with what is timed inside of it.
PASSES = ("_recursive_joint_graph_passes", "_recursive_post_grad_passes", "pass.")

Phases = dict[str, float]


@contextlib.contextmanager
def _phases() -> Iterator[Counter[str]]:
    """Seconds by phase, as torch's event log starts and ends them."""
    found: Counter[str] = Counter()
    running: list[list[Any]] = []  # name, when it began, what ran inside of it
    start: Callable[..., Any] = ChromiumEventLogger.log_event_start
    end: Callable[..., Any] = ChromiumEventLogger.log_event_end

    def starts(self: Any, event_name: str, *args: Any, **kwargs: Any) -> Any:
        running.append([event_name, time.process_time(), 0.0])
        return start(self, event_name, *args, **kwargs)

    def ends(self: Any, event_name: str, *args: Any, **kwargs: Any) -> Any:
        if running and running[-1][0] == event_name:
            _, began, inside = running.pop()
            seconds = time.process_time() - began
            found[event_name] += seconds - inside
            if running:
                running[-1][2] += seconds
        return end(self, event_name, *args, **kwargs)

    with contextlib.ExitStack() as stack:
        for name, replaced in (("log_event_start", starts), ("log_event_end", ends)):
            stack.callback(setattr, ChromiumEventLogger, name, vars(ChromiumEventLogger)[name])
            setattr(ChromiumEventLogger, name, replaced)
        yield found


def _compiled(model: str, layers: int, mode: str, how: Callable[[], Any]) -> Phases:
    forget()
    gc.collect()
    with how(), _phases() as found:
        start = time.process_time()
        stages(model, layers, MODES[mode])
        return {**found, "whole": time.process_time() - start}


def measure(model: str, layers: int, mode: str, rounds: int) -> dict[str, Phases]:
    """Compiles a model with torch's passes and with ours, in turn.

    Returns:
        For ``torch`` and ``ours`` the median seconds of each phase, of ``whole``, and of
        ``passes``: all of PASSES.
    """
    runs: dict[str, list[Phases]] = {"torch": [], "ours": []}
    for _ in range(rounds):
        runs["ours"].append(_compiled(model, layers, mode, inductor.patched))
        runs["torch"].append(_compiled(model, layers, mode, contextlib.nullcontext))
    for run in (run for side in runs.values() for run in side):
        run["passes"] = sum(taken for name, taken in run.items() if name.startswith(PASSES))
    return {
        side: {
            name: statistics.median(run.get(name, 0.0) for run in found)
            for name in dict.fromkeys(name for run in found for name in run)
        }
        for side, found in runs.items()
    }


def table(found: dict[str, Phases]) -> str:
    """The whole, all passes, and the dearest phases as Markdown; times in milliseconds."""
    theirs, ours = found["torch"], found["ours"]
    names = sorted(theirs, key=lambda name: -theirs[name])
    lines = [
        "| phase | torch | of a compile | ours | saved of a compile |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in names[:16]:
        saved = (theirs[name] - ours.get(name, 0.0)) / theirs["whole"]
        lines.append(
            f"| {name} | {theirs[name] * 1e3:.0f} | {theirs[name] / theirs['whole']:.1%} "
            f"| {ours.get(name, 0.0) * 1e3:.0f} | {saved:+.1%} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(FAMILIES), default="llama")
    parser.add_argument("--compile", choices=list(MODES), default="training-dynamic")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    # Torch's patterns are traced once a process, whichever matcher runs them.
    stages("llama", 1, MODES["training-dynamic"])
    found = measure(options.model, options.layers, options.compile, options.rounds)
    about = {name: getattr(options, name) for name in ("model", "compile", "layers", "rounds")}
    data = {**about, "machine": machine.describe(), "seconds": found}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "compile_phases.json").write_text(json.dumps(data, indent=1) + "\n")
    head = f"# A compile of {options.model}, {options.layers} layers, {options.compile}\n\n"
    (options.out / "compile_phases.md").write_text(head + table(found))
    print(head + table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
