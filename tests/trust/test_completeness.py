"""Nothing that could be rewritten is left, and nothing is gathered that need not be.

The measure is brute force: sites put on shards without any rule and run on every rank.
"""

from __future__ import annotations

import os

import pytest

import spfast
from spfast.testing import GraphOptions, TensorParallelCase, copy_graph, seeded_case
from spfast.testing.brute_force import fewest_gathers, safe_sites
from tests.trust.checks import TOO_FEW, config_of

LONG = "SPFAST_FUZZ" in os.environ
COUNT = min(int(os.environ.get("SPFAST_FUZZ", "24")), 1000)
# Two layers at most, for each question runs the graph; shards of two groups are not told apart.
SMALL = GraphOptions(max_layers=2, several_groups=0.0)


def rewritten(case: TensorParallelCase) -> tuple[dict[str, str], int]:
    """Why each all_reduce stays, "" where it does not, and how many all_gathers are inserted."""
    graph = copy_graph(case.graph)
    result = spfast.apply(graph, config_of(case, 0))
    left = {site.node: site.reason for site in result.skipped}
    gathers = sum("all_gather" in str(node.target) for node in graph.nodes)
    return {site.node: left.get(site.node, "") for site in case.sites}, gathers


@pytest.mark.timeout(0 if LONG else 300)
def test_fuzz_completeness() -> None:
    safe = found = 0
    for seed in range(100, 100 + COUNT):
        case = seeded_case(seed, SMALL)
        why, gathers = rewritten(case)
        possible = {site.node for site in safe_sites(case) if TOO_FEW not in why[site.node]}
        done = [site for site in case.sites if not why[site.node]]
        for site in done:
            assert site.node in possible, f"seed {seed}: {site.node} is not right by itself"
        for node in possible:
            # What is written to is left, right or not: I8 looks at the value, not at its readers.
            if why[node]:
                assert "writes in place to" in why[node], f"seed {seed}: {node} stays: {why[node]}"
        if done:
            fewest = fewest_gathers(case, done, gathers)
            assert fewest == gathers, f"seed {seed}: {gathers} all_gathers, {fewest} would do"
        safe += len(possible)
        found += len(done)
    assert safe > COUNT, "hardly any site is safe: the comparison says little"
    assert found >= 0.9 * safe, (found, safe)
