"""The invariants, on graphs drawn at random: short by default, as long as SPFAST_FUZZ says."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from spfast.testing import GraphOptions, TensorParallelCase, cases, seeded_case
from tests.trust.checks import check_case, described
from tests.trust.regressions import SEEDS

LONG = "SPFAST_FUZZ" in os.environ
COUNT = int(os.environ.get("SPFAST_FUZZ", "60"))
# In the long mode every run draws others; a failure names its seed.
FIRST = random.SystemRandom().randrange(10**9) if LONG else 1000


@pytest.mark.timeout(0 if LONG else 300)
@settings(
    max_examples=max(COUNT // 3, 1),
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink) if LONG else (Phase.generate,),
    print_blob=True,
)
@given(cases(GraphOptions(max_layers=2, irregular=0.3)))
def test_fuzz_small_graphs(case: TensorParallelCase) -> None:
    described(case, check_case)


@pytest.mark.timeout(0 if LONG else 300)
def test_fuzz_seeded_graphs() -> None:
    failures = []
    rewritten = sites = 0
    for seed in range(FIRST, FIRST + max(COUNT - COUNT // 3, 1)):
        case = seeded_case(seed)
        try:
            rewritten += int(check_case(case))
        except Exception as error:  # collected: one run of hours shall tell all that it found
            failures.append(
                f"seed {seed} ({', '.join(case.notes)}): {type(error).__name__}: {error}"
            )
        sites += len(case.sites)
    assert not failures, f"{len(failures)} graphs failed:\n" + "\n".join(failures[:20])
    # The checks would hold as well if nothing were rewritten.
    assert rewritten > 0.6 * sites, (rewritten, sites)


@pytest.mark.parametrize("seed", SEEDS)
def test_graphs_that_once_failed(seed: int) -> None:
    check_case(seeded_case(seed))
