"""Brute force finds out by running: what is right, what is not, and what would be gathered."""

from __future__ import annotations

import pytest
from torch import fx

from spfast.testing import GraphOptions, TensorParallelCase, seeded_case
from spfast.testing.brute_force import (
    between,
    fewest_gathers,
    gathered,
    is_right,
    on_shards,
    safe_sites,
)

ONE_GROUP = GraphOptions(max_layers=2, several_groups=0.0, odd_tokens=0.0)


def drawn_with(note: str, options: GraphOptions = ONE_GROUP) -> TensorParallelCase:
    cases = (seeded_case(seed, options) for seed in range(500))
    return next(case for case in cases if any(note in one for one in case.notes))


def test_a_site_on_shards_is_right_and_gathers_what_is_read() -> None:
    case = seeded_case(1, ONE_GROUP)
    site = safe_sites(case)[0]
    nodes = between(case, site)
    assert site.node in nodes and site.norm in nodes
    assert is_right(case, nodes)
    assert site.norm in gathered(case.graph, nodes)


def test_rows_taken_from_a_shard_are_found_wrong() -> None:
    case = drawn_with("rows tap")
    (rows,) = (node for node in case.graph.nodes if "aten.slice.Tensor" in str(node.target))
    source = rows.all_input_nodes[0].name
    site = next(site for site in safe_sites(case) if source in spread(case, site.node))
    nodes = between(case, site)
    assert is_right(case, nodes)
    assert not is_right(case, {*nodes, source, rows.name})


def spread(case: TensorParallelCase, start: str) -> set[str]:
    """What reads the node, and what reads that."""
    found: set[str] = set()
    for node in case.graph.nodes:
        if node.name == start or any(each.name in found for each in node.all_input_nodes):
            found.add(node.name)
    return found


def test_no_site_is_safe_where_rows_would_be_lost() -> None:
    options = GraphOptions(max_layers=1, odd_tokens=1.0, dynamic=False, three_d=False)
    case = seeded_case(3, options)
    assert not case.divisible and case.sites
    assert safe_sites(case) == []


def test_fewer_gathers_are_found_than_somebody_needs() -> None:
    case = seeded_case(1, ONE_GROUP)
    sites = safe_sites(case)
    least = fewest_gathers(case, sites, fewer_than=1000)
    assert least == len(gathered(case.graph, set().union(*(between(case, s) for s in sites))))
    assert fewest_gathers(case, sites, fewer_than=least) == least


def test_something_has_to_be_reduced() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(x)
    with pytest.raises(ValueError, match=r"none of \['x'\] is an all_reduce: name one"):
        on_shards(graph, ["x"], 0, 2)
