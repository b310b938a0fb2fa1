"""Every rank computes what it computed before, on real processes joined by gloo.

The stand-ins of vLLM's ops reduce whole and then take their rows: there the comparison is bitwise.
The functional ops use gloo's own all_reduce and reduce_scatter: with two ranks the two addends
commute, so bits agree as well; with four ranks they may add in another order.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx

import spfast
from spfast.testing import ops
from spfast.testing.dialects import DIALECTS
from spfast.testing.equivalence import assert_same, clone_inputs, copy_graph
from spfast.testing.gloo import run_ranks
from spfast.testing.graphs import GraphOptions, TensorParallelCase, seeded_case
from tests.trust.checks import TOO_FEW

# Regular models and irregular ones: taps, noise, missing first sites, sites without a norm, two
# groups. What is quantised stays in float32, which gloo can gather.
REGULAR = {"irregular": 0.0, "odd_tokens": 0.0, "several_groups": 0.0}
IRREGULAR = {"irregular": 0.5, "odd_tokens": 0.0, "several_groups": 0.5}
SEEDS = range(100, 106)


def cases(dialect: str, world_size: int, irregular: bool) -> list[TensorParallelCase]:
    options = GraphOptions(
        dialects=(dialect,),
        world_sizes=(world_size,),
        dtypes=(torch.float32,),
        fp8=0.6 if dialect != "functional" else 0.0,
        max_layers=2,
        **(IRREGULAR if irregular else REGULAR),
    )
    drawn = [seeded_case(seed, options) for seed in SEEDS]
    return [case for case in drawn if not case.quantised_to_fp8]


def run(graph: fx.Graph, inputs: list[Any]) -> Any:
    module = fx.GraphModule(torch.nn.Module(), graph)
    return fx.Interpreter(module).run(*clone_inputs(inputs))


def rewrite_and_run(
    rank: int, world_size: int, dialect: str, irregular: bool
) -> list[tuple[int, int]]:
    """Returns (sites rewritten, sites) of each case; raises where an output differs."""
    ops.declare()
    for name in ("tp:0", "other:0"):
        ops.register_group(name, dist.group.WORLD)
    exact = dialect != "functional" or world_size == 2
    counts = []
    for number, case in enumerate(cases(dialect, world_size, irregular)):
        graph = copy_graph(case.graph)
        for node in graph.nodes:
            # The functional collectives know the default group as "0" alone.
            if str(node.target).startswith("_c10d_functional"):
                node.args = tuple("0" if arg == "other:0" else arg for arg in node.args)
        expected = run(graph, case.inputs()[rank])
        # Of vLLM's groups torch knows nothing; of its own it is asked.
        config = spfast.SequenceParallelConfig()
        if dialect != "functional":
            config = case.config(rank)
        result = spfast.apply(graph, config)
        graph.lint()
        actual = run(graph, case.inputs()[rank])
        what = f"case {number} ({', '.join(case.notes)}), rank {rank}"
        assert_same(actual, expected, 0.0 if exact else 1e-6, what)
        few = sum(TOO_FEW in site.reason for site in result.skipped)
        if few < len(case.sites):
            counts.append((int(result), len(case.sites) - few))
    return counts


def rewrite_all(rank: int, world_size: int) -> dict[tuple[str, bool], list[tuple[int, int]]]:
    """All dialects in one group of processes, which takes longer to start than to run."""
    return {
        (dialect, irregular): rewrite_and_run(rank, world_size, dialect, irregular)
        for dialect in DIALECTS
        for irregular in (False, True)
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_outputs_are_equal_on_every_rank(world_size: int) -> None:
    by_rank = run_ranks(rewrite_all, world_size, timeout=600)
    assert all(counts == by_rank[0] for counts in by_rank)
    for (dialect, irregular), counts in by_rank[0].items():
        assert counts, dialect
        if irregular:
            assert sum(done for done, _ in counts) > 0, dialect
        else:
            assert all(done == sites for done, sites in counts), dialect
