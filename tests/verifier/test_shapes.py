"""Shards of every shape: vectors with one number a token, features of several dims, expansions."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx
from verifier.pairs import Body, Maker, aten, pair

sums, tanh, mul = aten.sum.dim_IntList, aten.tanh.default, aten.mul.Tensor


def vector(m: Maker, x: fx.Node) -> fx.Node:
    """One number a token, [8] of [8, 8]."""
    return m.call(sums, m.call(tanh, x), [1])


def heads(m: Maker, x: fx.Node) -> fx.Node:
    """[8, 2, 4] of [8, 8], or of one rank's rows."""
    return m.call(aten.view.default, x, [-1, 2, 4])


def merged(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(aten.view.default, x, [-1, 8])


def given(m: Maker, *shape: int) -> fx.Node:
    return m.placeholder("given", shape, torch.float32)


def expanded(m: Maker, x: fx.Node, *sizes: int) -> fx.Node:
    return m.call(aten.expand.default, x, list(sizes))


RIGHT: dict[str, tuple[Body, Body]] = {
    "an operator on a vector": (
        lambda m: m.call(aten.relu.default, vector(m, m.reduce(m.x))),
        lambda m: m.gather(m.call(aten.relu.default, vector(m, m.scatter(m.x)))),
    ),
    "a vector and a number": (
        lambda m: m.call(mul, vector(m, m.reduce(m.x)), given(m)),
        lambda m: m.gather(m.call(mul, vector(m, m.scatter(m.x)), given(m))),
    ),
    "a vector and a single element": (
        lambda m: m.call(mul, vector(m, m.reduce(m.x)), given(m, 1)),
        lambda m: m.gather(m.call(mul, vector(m, m.scatter(m.x)), given(m, 1))),
    ),
    "two vectors": (
        lambda m: m.add(vector(m, m.reduce(m.x)), given(m, 8)),
        lambda m: m.gather(m.add(vector(m, m.scatter(m.x)), m.rows(given(m, 8), 4, 8))),
    ),
    "a vector that becomes a column": (
        lambda m: m.call(
            mul, (r := m.reduce(m.x)), m.call(aten.unsqueeze.default, vector(m, r), 1)
        ),
        lambda m: m.gather(
            m.call(mul, (r := m.scatter(m.x)), m.call(aten.unsqueeze.default, vector(m, r), 1))
        ),
    ),
    "a weight of two dims": (
        lambda m: merged(m, m.call(mul, heads(m, m.reduce(m.x)), given(m, 2, 4))),
        lambda m: m.gather(merged(m, m.call(mul, heads(m, m.scatter(m.x)), given(m, 2, 4)))),
    ),
    "a number a head": (
        lambda m: merged(m, m.call(mul, heads(m, m.reduce(m.x)), given(m, 2, 1))),
        lambda m: m.gather(merged(m, m.call(mul, heads(m, m.scatter(m.x)), given(m, 2, 1)))),
    ),
    "a gate a sample": (
        lambda m: m.call(mul, m.call(aten.unsqueeze.default, m.reduce(m.x), 0), given(m, 1, 1, 8)),
        lambda m: m.call(
            aten.unsqueeze.default,
            m.gather(
                m.call(mul, m.scatter(m.x), m.call(aten.view.default, given(m, 1, 1, 8), [1, 8]))
            ),
            0,
        ),
    ),
    "a column expanded to features": (
        lambda m: m.add(m.reduce(m.x), expanded(m, m.call(sums, m.reduce(m.x), [1], True), 8, 8)),
        lambda m: m.gather(
            m.add((r := m.scatter(m.x)), expanded(m, m.call(sums, r, [1], True), 4, 8))
        ),
    ),
    "a weight expanded to rows": (
        lambda m: m.add(m.reduce(m.x), expanded(m, m.weight, 8, 8)),
        lambda m: m.gather(m.add(m.scatter(m.x), expanded(m, m.weight, 4, 8))),
    ),
    "rows of a weight that was expanded": (
        lambda m: m.add(m.reduce(m.x), expanded(m, m.weight, 8, 8)),
        lambda m: m.gather(m.add(m.scatter(m.x), m.rows(expanded(m, m.weight, 8, 8), 4, 8))),
    ),
}

WRONG: dict[str, tuple[Body, Body, str]] = {
    "rows of rank 0 of a vector": (
        lambda m: m.add(vector(m, m.reduce(m.x)), given(m, 8)),
        lambda m: m.gather(m.add(vector(m, m.scatter(m.x)), m.rows(given(m, 8), 0, 4))),
        "reads rows 0:4 of 8",
    ),
    "a whole vector of another length": (
        lambda m: m.add(vector(m, m.reduce(m.x)), given(m, 8)),
        lambda m: m.gather(m.add(vector(m, m.scatter(m.x)), m.call(sums, given(m, 4, 2), [1]))),
        "together with one rank's chunk [4]",
    ),
    "a sum over the tokens of a vector": (
        lambda m: m.call(sums, vector(m, m.reduce(m.x)), [0]),
        lambda m: m.call(sums, vector(m, m.scatter(m.x)), [0]),
        "one rank's part []",
    ),
    "a vector taken for features": (
        lambda m: m.add(given(m, 8, 8), vector(m, m.reduce(m.x))),
        lambda m: m.gather(m.add(given(m, 4, 4), vector(m, m.scatter(m.x)))),
        "together with one rank's chunk [4]",
    ),
    "weights of heads for weights of features": (
        lambda m: merged(m, m.call(mul, heads(m, m.reduce(m.x)), given(m, 2, 1))),
        lambda m: m.gather(
            merged(
                m, m.call(mul, m.call(aten.view.default, m.scatter(m.x), [-1, 4, 2]), given(m, 2))
            )
        ),
        "",
    ),
    "a shard repeated along the rows": (
        lambda m: expanded(m, m.call(aten.unsqueeze.default, m.reduce(m.x), 0), 2, 8, 8),
        lambda m: expanded(m, m.call(aten.unsqueeze.default, m.scatter(m.x), 0), 2, 4, 8),
        "repeats the rows of one rank's chunk",
    ),
    "rows that were merged after they were cut": (
        lambda m: m.rows(merged_pairs(m, m.res), 0, 1),
        lambda m: m.call(
            aten.view.default, m.call(mul, pairs(m, m.rows(m.res, 1, 3)), given(m, 16)), [2, 8]
        ),
        "",
    ),
}


def pairs(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(aten.view.default, x, [-1, 16])


def merged_pairs(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(mul, pairs(m, x), given(m, 16))


@pytest.mark.parametrize("case", RIGHT)
def test_right_shapes_are_proved(case: str) -> None:
    assert pair(*RIGHT[case]) == {}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_shapes_are_not(case: str) -> None:
    before, after, reason = WRONG[case]
    found = pair(before, after)
    assert found and any(reason in why for why in found.values()), found


def test_rows_merged_after_they_were_cut_are_not_the_rows_of_what_was_merged_first() -> None:
    """Rows 1 and 2 as one row of 16 meet a weight at another place than rows 0 to 3 as two."""

    def first(m: Maker) -> fx.Node:
        whole = m.call(aten.view.default, merged_pairs(m, m.res), [8, 8])
        return m.rows(whole, 1, 3)

    def later(m: Maker) -> fx.Node:
        return m.call(aten.view.default, merged_pairs(m, m.rows(m.res, 1, 3)), [2, 8])

    assert pair(first, first) == {} and pair(later, later) == {}
    assert pair(first, later)


def test_half_of_the_tokens_once_that_was_guarded() -> None:
    def half(m: Maker) -> Any:
        size = m.call(aten.sym_size.int, m.x, 0)
        return m.call(operator.floordiv, size, 2)

    def before(m: Maker) -> fx.Node:
        return m.norm(m.reduce(m.call(aten.slice.Tensor, m.x, 0, 0, half(m))))

    def after(m: Maker) -> fx.Node:
        count = half(m)
        if guarded:
            assert bool(count.meta["val"] % 2 == 0)
        return m.gather(m.norm(m.scatter(m.call(aten.slice.Tensor, m.x, 0, 0, count))))

    guarded = True
    assert pair(before, after, dynamic=True) == {}
    guarded = False
    assert "is not known to be a multiple of 2" in str(pair(before, after, dynamic=True))
