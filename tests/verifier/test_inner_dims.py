"""Operators along heads, or along any dims but the tokens, work on each token's alone."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import fx
from verifier.pairs import Maker, aten, pair

Along = Callable[[Maker, fx.Node], fx.Node]


def heads(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(aten.view.default, x, [-1, 2, 2, 2])


def of(target: torch._ops.OpOverload, *literals: object, **named: object) -> Along:
    return lambda m, x: m.call(target, heads(m, x), *literals, **named)


def joined(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(aten.cat.default, [heads(m, x), m.relu(heads(m, x))], 1)


def split(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(operator.getitem, m.call(aten.split.Tensor, heads(m, x), 1, -2), 1)


ALONG: dict[str, Along] = {
    "select": of(aten.select.int, 1, 1),
    "slice": of(aten.slice.Tensor, 2, 1, 2),
    "softmax": of(aten._softmax.default, 1, False),
    "cumsum": of(aten.cumsum.default, -2),
    "sum": of(aten.sum.dim_IntList, [1]),
    "sum_of_two": of(aten.sum.dim_IntList, [1, -1]),
    "mean_kept": of(aten.mean.dim, [-2], True),
    "amax": of(aten.amax.default, [1, 2, 3]),
    "cat": joined,
    "split": split,
}


def packed(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(aten.mul.Tensor, x, 2.0)


@pytest.mark.parametrize("name", ALONG)
def test_rows_of_the_result_are_what_it_makes_of_rows(name: str) -> None:
    along = ALONG[name]
    found = pair(
        lambda m: packed(m, along(m, m.reduce(m.x))),
        lambda m: m.gather(packed(m, along(m, m.scatter(m.x)))),
    )
    assert found == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (of(aten.select.int, 1, 1), of(aten.select.int, 1, 0)),
        (of(aten.select.int, 1, 1), of(aten.select.int, 2, 1)),
        (of(aten.sum.dim_IntList, [1, 2]), of(aten.sum.dim_IntList, [1, 3])),
        (of(aten.cumsum.default, 1), of(aten.cumsum.default, 2)),
    ],
)
def test_another_dim_or_place_is_another_value(one: Along, other: Along) -> None:
    found = pair(
        lambda m: packed(m, one(m, m.reduce(m.x))),
        lambda m: m.gather(packed(m, other(m, m.scatter(m.x)))),
    )
    assert found


def test_other_heads_of_as_many_elements_are_another_value() -> None:
    def summed(m: Maker, x: fx.Node, sizes: list[int]) -> fx.Node:
        return m.call(aten.sum.dim_IntList, m.call(aten.view.default, x, sizes), [1, 2])

    assert (
        pair(
            lambda m: summed(m, m.reduce(m.x), [8, 2, 2, 2]),
            lambda m: m.gather(summed(m, m.scatter(m.x), [4, 2, 2, 2])),
        )
        == {}
    )
    assert pair(
        lambda m: summed(m, m.reduce(m.x), [8, 2, 4, 1]),
        lambda m: m.gather(summed(m, m.scatter(m.x), [4, 4, 2, 1])),
    )


def test_the_tokens_of_one_sample_are_no_inner_dim() -> None:
    def along_tokens(m: Maker, x: fx.Node, tokens: int) -> fx.Node:
        sample = m.call(aten.view.default, x, [1, tokens, 8])
        return m.call(aten.cumsum.default, sample, 1)

    found = pair(
        lambda m: along_tokens(m, m.reduce(m.x), 8),
        lambda m: m.gather(along_tokens(m, m.scatter(m.x), 4)),
    )
    assert "works along dim 1 of one rank's chunk [1, 4, 8]" in found["cumsum_default"]
