"""Graphs that are easy to rewrite wrongly: the reference keeps what every rank computes."""

from __future__ import annotations

import pytest
from support.corner_graphs import CORNERS, WORLD, inputs, of_rank
from torch import fx

import spfast
from spfast import reference
from spfast.testing.lockstep import assert_equivalent


def rewrite(graph: fx.Graph, rank: int) -> spfast.Result:
    result = reference.apply(graph, of_rank(rank))
    graph.lint()
    return result


@pytest.mark.parametrize("name", CORNERS)
def test_corner(name: str) -> None:
    corner = CORNERS[name]
    built = corner.build()
    results = assert_equivalent(built.graph, rewrite, inputs(built), WORLD, rtol=2e-6)
    assert [int(result) for result in results] == [corner.rewritten] * WORLD
    assert all(corner.reason in site.reason for site in results[0].skipped)
    assert bool(results[0].skipped) == bool(corner.reason)


@pytest.mark.parametrize("name", CORNERS)
def test_corner_leaves_nothing_behind(name: str) -> None:
    corner = CORNERS[name]
    graph = corner.build().graph
    read_before = {node.name for node in graph.nodes if node.users}
    rewrite(graph, 0)
    gathers = [node for node in graph.nodes if "all_gather" in str(node.target)]
    assert len(gathers) == corner.gathers
    left = [
        node
        for node in graph.nodes
        if node.op == "call_function" and not node.users and "_." not in str(node.target)
        if node.name in read_before or "getitem" not in str(node.target)
    ]
    assert left == []
