"""An all_reduce of several tensors is rewritten whole or not at all, and has a line."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from api.layers import RANKS, Layers, c10d, of_rank, reasons, run_as, targets

import spfast

COALESCED = [c10d.all_reduce_coalesced.default, c10d.all_reduce_coalesced_.default]


def two(operator_: Any | None, largest: bool = True) -> Layers:
    """Two sums, normed: a number a token of each is returned, or the whole norm."""
    build = Layers()
    first, second = build.partial(), build.product(build.partial())
    if operator_ is None:
        sums = [
            build.wait(build.call(c10d.all_reduce.default, x, "sum", "tp")) for x in (first, second)
        ]
    else:
        sums = build.several(operator_, first, second)
    normed = [build.norm(each) for each in sums]
    build.output([build.largest(each) for each in normed] if largest else normed)
    return build


@pytest.mark.parametrize("operator_", COALESCED)
def test_each_tensor_of_a_coalesced_one_is_rewritten(operator_: Any) -> None:
    build = two(operator_)
    results = run_as(two(None), build)
    assert [int(result) for result in results] == [2] * RANKS
    explanation = spfast.explain(build.graph, of_rank(0))
    assert [entry.node for entry in explanation.entries] == ["getitem", "getitem_1"]
    spfast.apply(build.graph, of_rank(0))
    assert not [name for name in targets(build.graph) if "all_reduce" in name]


# Collectives that are said to cost nothing are not made for nothing either.
@pytest.mark.parametrize("fields", [{}, {"collective_cost": 0}], ids=["", "free"])
@pytest.mark.parametrize("operator_", COALESCED)
def test_one_call_of_several_stays_where_more_calls_would_move_the_same(
    operator_: Any, fields: dict[str, Any]
) -> None:
    said = reasons(two(operator_, largest=False).graph, **fields)
    assert (
        list(said.values())
        == [
            "gathering what is computed from it would move more bytes than its all_reduce does, "
            "or as many in more collectives"
        ]
        * 2
    )


@pytest.mark.parametrize("operator_", COALESCED)
def test_a_coalesced_one_is_rewritten_whole_or_not_at_all(operator_: Any) -> None:
    build = Layers()
    first, second = build.several(operator_, build.partial(), build.product(build.partial()))
    build.output([build.largest(build.norm(first)), build.product(second)])
    assert reasons(build.graph) == {
        "getitem": "it is reduced in one call with %getitem_1, which stays",
        "getitem_1": "no rule matches what reads it, and %mm_default_3 = aten.mm.default reads it "
        "and needs all tokens",
    }


def test_a_tensor_that_nobody_takes_holds_nothing_up() -> None:
    build = Layers()
    started = build.call(
        c10d.all_reduce_coalesced.default, [build.weight, build.partial()], "sum", "tp"
    )
    build.output([build.norm(build.wait(build.call(operator.getitem, started, 1)))])
    assert int(spfast.apply(build.graph, of_rank(0))) == 1
    assert not [name for name in targets(build.graph) if "all_reduce" in name]


def test_a_list_that_is_read_whole_stays() -> None:
    build = Layers()
    started = build.call(c10d.all_reduce_coalesced.default, [build.partial()], "sum", "tp")
    taken = build.call(operator.getitem, started, 0)
    build.output([build.norm(build.wait(taken)), started])
    assert reasons(build.graph) == {
        "all_reduce_coalesced_default": "%output reads its list of results whole"
    }


def test_a_result_that_is_taken_twice_stays() -> None:
    build = Layers()
    started = build.call(c10d.all_reduce_coalesced.default, [build.partial()], "sum", "tp")
    sums = [build.wait(build.call(operator.getitem, started, 0)) for _ in range(2)]
    build.output([build.norm(each) for each in sums])
    assert reasons(build.graph) == {
        "all_reduce_coalesced_default": "%getitem_1 takes a result that another node has taken"
    }


def test_in_place_of_several_stays_where_one_is_seen() -> None:
    build = Layers()
    first, second = build.partial(), build.product(build.partial())
    sums = build.several(c10d.all_reduce_coalesced_.default, first, second)
    build.output([*map(build.norm, sums), second])
    assert reasons(build.graph) == {
        "all_reduce_coalesced__default": "it writes to memory of %mm_default_2, "
        "which %output reads afterwards"
    }
