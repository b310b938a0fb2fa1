"""Draws programs, and prints what fails, cut down: ``python -m tests.pool.explore FIRST COUNT``."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter

import torch

from spfast.testing import ops
from tests.pool.checks import check
from tests.pool.generate import drawn
from tests.pool.rewrite import KINDS
from tests.pool.shrink import fails_with, shrink

HEAD = """from spfast.testing import ops
from tests.pool.checks import check
from tests.pool.program import Input, Op, PerRank, Program, Step, V
from tests.pool.world import World
import torch
ops.declare()
print(*check(PROGRAM).failures, sep="\\n")"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int, help="the first seed")
    parser.add_argument("count", type=int, help="how many")
    parser.add_argument("--kind", choices=KINDS, help="cut down failures of this kind alone")
    parser.add_argument("--examples", type=int, default=2, help="failures of a kind to cut down")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    ops.declare()
    seen: Counter[str] = Counter()
    for seed in range(chosen.first, chosen.first + chosen.count):
        program, values = drawn(seed)
        outcome = check(program, values=values)
        seen["programs"] += 1
        seen["rewritten"] += bool(outcome.rewritten)
        seen["proved"] += bool(outcome.proved)
        seen["trusted wrongly, said so"] += outcome.said
        seen["refused"] += bool(outcome.refused)
        for failure in outcome.failures:
            seen[failure.kind] += 1
            if chosen.kind not in (None, failure.kind) or seen[failure.kind] > chosen.examples:
                continue
            small = shrink(program, fails_with(failure.kind))
            print(f"# seed {seed}, {failure}")
            print(HEAD.replace("PROGRAM", str(small)), flush=True)
    print(dict(seen))


if __name__ == "__main__":
    main()
