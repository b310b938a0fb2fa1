"""Random passes on random graphs: both matchers agree on every one.

``SPFAST_FUZZ=10000`` is the long mode. A failing case names its seed; it goes to ``REGRESSIONS``
once it is understood.
"""

from __future__ import annotations

import os
import types
from typing import Any

import pytest
from pattern_matcher import harness
from pattern_matcher.fuzz_graphs import random_graph
from pattern_matcher.fuzz_patterns import random_pass
from pattern_matcher.fuzz_traced import random_replacement
from pattern_matcher.harness import Disagreement, Outcome, agree
from torch._inductor import pattern_matcher as torch_matcher

CASES = int(os.environ.get("SPFAST_FUZZ", "500"))
TRACED = max(1, CASES // 12)  # tracing takes a tenth of a second a case
CHUNKS = 10

# Seeds that once failed, each with what it showed.
REGRESSIONS: dict[int, str] = {}
TRACED_REGRESSIONS: dict[int, str] = {
    13: "extra_check was asked twice where the replacement could not be kept as a template",
    40: "an argument is also an output: torch's graph was out of order",
    1093: "one output is returned in place of another: taken for a cycle",
    1186: "an output stays as it is, being an argument: taken for a cycle",
    1259: "the same, for an output that the replacement does not need",
    1479: "places of nodes noted while torch's graph was out of order",
}


def direct(seed: int) -> Outcome:
    """One pass of hand-made patterns, applied to the graph they come from or to another one."""
    own = seed % 4 != 0
    define = random_pass(seed, lambda: random_graph(seed))
    return agree(define, lambda: random_graph(seed if own else seed + 1), spy=True, sort=True)


def traced(seed: int) -> Outcome:
    """One pass of traced replacements."""
    define, build = random_replacement(seed)
    return agree(define, build, spy=True, sort=True)


def check(run: Any, seeds: Any) -> list[Outcome]:
    outcomes = []
    for seed in seeds:
        try:
            outcomes.append(run(seed))
        except Disagreement as e:
            raise AssertionError(f"seed {seed} of {run.__name__}: {e}") from e
    return outcomes


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fuzz_patterns(chunk: int) -> None:
    outcomes = check(direct, range(chunk, CASES - TRACED, CHUNKS))
    # A fuzz that never matches, or only ever fails, would agree on everything.
    matched = sum(bool(o.count) for o in outcomes)
    raised = sum(o.error is not None for o in outcomes)
    assert matched > len(outcomes) / 3 and raised < len(outcomes) / 4


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fuzz_replacements(chunk: int) -> None:
    outcomes = check(traced, range(chunk, TRACED, CHUNKS))
    matched = sum(bool(o.count) for o in outcomes)
    assert len(outcomes) < 20 or matched > len(outcomes) / 4


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_fuzz_regression(seed: int) -> None:
    check(direct, [seed])


@pytest.mark.parametrize("seed", TRACED_REGRESSIONS)
def test_fuzz_traced_regression(seed: int) -> None:
    check(traced, [seed])


def _blind_to_users(pattern: Any, node: Any, ctx: Any) -> bool:
    return True


def _no_repeats(self: Any, pattern: Any, node: Any) -> Any:
    """MatchContext.match without the check that a shared part is the same node."""
    found = pattern._match(node, self)
    self.pattern_to_node[pattern] = node if found else None
    return found


def _kwargs_unchecked(self: Any, other: Any) -> None:
    """Match.extend that lets two captures of one name differ."""
    self.args.extend(other.args)
    self.nodes.extend(other.nodes)
    self.kwargs.update(other.kwargs)
    self.targets.update(other.targets)


MUTANTS = {
    "users play no part": ("_TargetExpr", "_match_users", _blind_to_users),
    "shared parts may differ": ("MatchContext", "match", _no_repeats),
    "captures of one name may differ": ("Match", "extend", _kwargs_unchecked),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_fuzz_finds_a_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own matcher with one check less is told from torch's within 200 cases."""
    owner, method, mutant = MUTANTS[name]
    right = getattr(getattr(torch_matcher, owner), method)
    original = torch_matcher.PatternMatcherPass.apply

    def spoilt(self: Any, gm: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(getattr(torch_matcher, owner), method, mutant)
            return original(self, gm)

    made = type("PatternMatcherPass", (torch_matcher.PatternMatcherPass,), {"apply": spoilt})
    shim = types.SimpleNamespace(**{**vars(torch_matcher), "PatternMatcherPass": made})
    monkeypatch.setattr(harness, "subject", lambda: shim)
    with pytest.raises(AssertionError, match=r"seed \d+ of direct"):
        check(direct, range(200))
    assert getattr(getattr(torch_matcher, owner), method) is right
