"""Times rewriters against each other: same graphs, one process, in turn.

The clock is the process's own processor time. A pass runs on one thread and waits for nothing, so
on an idle machine that is the time that passes; on a shared one it leaves out what others took.

A rewrite destroys its input, so every timed call gets a graph of its own, made outside the clock;
garbage is collected before each call and collection is off during it; what lived before the first
one is set aside, or collecting would empty the processor's caches each time. Contenders take turns
within each round, so that a slow minute of the machine hits all of them. A noisy measurement is
repeated, and says so if it stays noisy.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.fx as fx

REPEATS = 7
NOISY_SPREAD = 0.15  # (third quartile - first) / median; a quiet machine stays under a tenth
PATIENCE = 3.0  # seconds; a measurement that took longer is not repeated, only called noisy
NOISY_FLOOR = 50e-6  # seconds; a spread below this is the clock and the caches, not the machine


@dataclass(frozen=True)
class Sample:
    """Seconds of several runs of one thing.

    Attributes:
        seconds: every run, in order.
        noisy: whether the runs disagree although they were repeated.
    """

    seconds: tuple[float, ...]
    noisy: bool = False

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def to_json(self) -> dict[str, Any]:
        """Plain data: median, quartiles, all runs."""
        first, third = self.quartiles
        return {
            "median_s": self.median,
            "q1_s": first,
            "q3_s": third,
            "runs": len(self.seconds),
            "noisy": self.noisy,
            "seconds": list(self.seconds),
        }


@dataclass(frozen=True)
class Contender:
    """One rewriter to time.

    Attributes:
        name: as in the tables.
        run: rewrites a graph in place; returns the number of sites.
    """

    name: str
    run: Callable[[fx.Graph], int]


def timed(run: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    """Seconds of one call, garbage collection kept out of it, and what it returned."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        result = run(argument)
        return time.process_time() - start, result
    finally:
        gc.enable()


def is_noisy(seconds: Sequence[float]) -> bool:
    """Whether the middle half of the runs is spread too wide to quote their median."""
    first, third = Sample(tuple(seconds)).quartiles
    spread = third - first
    return spread > NOISY_FLOOR and spread > NOISY_SPREAD * statistics.median(seconds)


def compare(
    contenders: Sequence[Contender],
    make: Callable[[], fx.Graph],
    sites: int | None = None,
    repeats: int = REPEATS,
    warmup: int = 1,
    say: Callable[[str], None] = lambda _: None,
    attempts: int = 2,
) -> dict[str, Sample]:
    """Times several rewriters on equal graphs, in turn.

    Args:
        contenders: who takes part.
        make: makes a fresh graph; not timed.
        sites: the number that each must report, every time; None: not checked.
        repeats: timed rounds.
        warmup: rounds whose time is not kept.
        say: where to report a repeated measurement.
        attempts: how often a noisy measurement is repeated.

    Returns:
        A Sample for each contender.

    Raises:
        AssertionError: if a contender finds another number of sites.
    """
    runs: dict[str, list[float]] = {c.name: [] for c in contenders}

    def play_round(who: Sequence[Contender], keep: bool) -> None:
        for contender in who:
            seconds, found = timed(contender.run, make())
            if sites is not None and found != sites:
                raise AssertionError(f"{contender.name} found {found} sites, not {sites}")
            if keep:
                runs[contender.name].append(seconds)

    for _ in range(warmup):
        play_round(contenders, keep=False)
    gc.freeze()
    for _ in range(repeats):
        play_round(contenders, keep=True)
    for attempt in range(attempts):
        noisy = [c for c in contenders if is_noisy(runs[c.name])]
        again = [c for c in noisy if sum(runs[c.name]) < PATIENCE]
        if not again:
            break
        say(f"noisy, repeated (attempt {attempt + 1}): {', '.join(c.name for c in again)}")
        for contender in again:
            runs[contender.name].clear()
        for _ in range(repeats):
            play_round(again, keep=True)
    gc.unfreeze()
    return {name: Sample(tuple(s), is_noisy(s)) for name, s in runs.items()}


def repeat(
    run: Callable[[Any], Any],
    make: Callable[[], Any],
    repeats: int = REPEATS,
    warmup: int = 1,
) -> Sample:
    """Times one thing alone; ``make`` gives each call its argument, outside the clock."""
    for attempt in range(3):
        for _ in range(warmup):
            timed(run, make())
        gc.freeze()
        seconds = [timed(run, make())[0] for _ in range(repeats)]
        gc.unfreeze()
        if not is_noisy(seconds) or attempt == 2:
            return Sample(tuple(seconds), is_noisy(seconds))
    raise AssertionError("unreachable")


def growth_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(size) by least squares: 1.0 is linear."""
    import math

    if len(sizes) < 2:
        raise ValueError(f"a growth exponent needs at least 2 sizes, not {len(sizes)}")
    x = [math.log(s) for s in sizes]
    y = [math.log(s) for s in seconds]
    return statistics.linear_regression(x, y).slope


def ratios(samples: Mapping[str, Sample], of: str) -> dict[str, float]:
    """How many times longer each took than ``of``, by medians of the same run."""
    base = samples[of].median
    return {name: sample.median / base for name, sample in samples.items()}
