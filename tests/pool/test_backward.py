"""Drawn backward steps: they run, and the rewrite merges reductions and leaves sums in parts."""

from __future__ import annotations

import random

import pytest
import torch
from torch import fx

from tests.pool.backward import backward
from tests.pool.checks import examine
from tests.pool.costs import cost
from tests.pool.draw import Draw
from tests.pool.program import Program, build_all
from tests.pool.rewrite import Rewrite, rewritten
from tests.pool.world import World

ALL_REDUCE = torch.ops._c10d_functional.all_reduce.default


def step(seed: int) -> Program:
    d = Draw(random.Random(seed), World(2), {}, may_be_zero=False, same_random=True)
    d.the_stream()
    last = backward(d)
    outputs = [name for name in d.pool if name not in {spec.name for spec in d.inputs}]
    assert last in outputs
    config = {"recognise": "both", "collective_cost": 0}
    return Program(
        d.world, tuple(d.inputs), tuple(d.steps), tuple(outputs), config=config, seed=seed
    )


@pytest.fixture(scope="module")
def made() -> list[Rewrite]:
    return [rewritten(program, build_all(program)) for program in map(step, range(16))]


def test_reductions_are_merged_and_sums_left_in_parts(made: list[Rewrite]) -> None:
    for each in made:
        assert not examine(each).failures
    results = [each.results[0] for each in made]
    assert any(result.merged for result in results)
    assert any(result.totals for result in results)


def test_what_finishes_a_sum_over_tokens_costs_nothing_and_any_other_all_reduce_does(
    made: list[Rewrite],
) -> None:
    found = next(each for each in made if each.results[0].totals)
    before, after = found.before[0], found.after[0]
    names = {node.name for node in before.nodes}
    of_parts = [
        node
        for node in after.find_nodes(op="call_function", target=ALL_REDUCE)
        if node.name not in names
    ]
    assert len(of_parts) == len(found.results[0].totals)
    world = found.program.world
    known = cost(after, world, before)
    assert cost(after, world, after).collectives == known.collectives + 2 * len(of_parts)
    more = fx.Graph()
    more.output(more.graph_copy(after, {}))
    value = next(iter(after.nodes)).meta["val"]
    for node in more.nodes:
        if node.op == "placeholder":
            with more.inserting_before(more.output_node()):
                made_anew = more.call_function(ALL_REDUCE, (node, "sum", "tp"), name="another")
            made_anew.meta["val"] = value
            break
    assert cost(more, world, before).collectives == known.collectives + 2
