"""The pass on programs that were drawn without any knowledge of it."""

from __future__ import annotations

import os
import random

import pytest

from tests.pool.checks import check
from tests.pool.generate import drawn

# 300 by default, 20,000 with SPFAST_LONG, or as many as SPFAST_FUZZ says.
LONG = "SPFAST_FUZZ" in os.environ or bool(os.environ.get("SPFAST_LONG"))
COUNT = int(os.environ.get("SPFAST_FUZZ", "20000" if LONG else "300"))
# In the long mode every run draws others; a failure names its seed.
FIRST = random.SystemRandom().randrange(10**9) if LONG else 1
BATCHES = 6


@pytest.mark.timeout(0 if LONG else 300)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_fuzz_drawn_programs(batch: int) -> None:
    failures: list[str] = []
    rewritten = 0
    seeds = range(FIRST + batch, FIRST + COUNT, BATCHES)
    for seed in seeds:
        program, values = drawn(seed)
        outcome = check(program, values=values)
        rewritten += bool(outcome.rewritten)
        failures += [f"seed {seed}: {failure}" for failure in outcome.failures]
    assert not failures, (
        f"{len(failures)} failures; python -m tests.pool.explore SEED 1 cuts one down:\n"
        + "\n".join(failures[:20])
    )
    # The checks would hold as well if nothing were rewritten.
    assert rewritten >= 0.2 * len(seeds), (rewritten, len(seeds))
