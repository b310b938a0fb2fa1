"""Rules whose search or replacement depends on the sizes, strides and dtypes of a match."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pattern_matcher.graphs import BF16, F16, F32
from pattern_matcher.harness import agree
from pattern_matcher.rules import add_relu, both, graph_of, rule

aten, prims = torch.ops.aten, torch.ops.prims


# The replacement's nodes depend on the sizes of the match in one way or another.
SHAPED = {
    "view of the flattened": lambda x, y: aten.sigmoid(aten.mul(x.reshape(-1), y.reshape(-1))).view(
        x.shape
    ),
    "sizes in a new tensor": lambda x, y: aten.mul(x, torch.full(x.shape, 2.0)),
    "half the columns": lambda x, y: aten.cat([x[:, : x.shape[1] // 2], y[:, -4:]], 1),
    "strided": lambda x, y: aten.mul(x, y).t().contiguous().t(),
    "empty_strided": lambda x, y: torch.empty_strided(x.shape, x.stride()).copy_(x) + y,
    "a size as a scalar": lambda x, y: aten.mul(aten.add(x, y), 1.0 / x.shape[-1]),
    "rows as a scalar": lambda x, y: aten.mul(aten.add(x, y), x.shape[0]),
    "expanded": lambda x, y: aten.add(x, aten.sum(y, [0], True).expand(x.shape)),
    "arange over a size": lambda x, y: aten.add(x, torch.arange(y.shape[-1])),
    "a branch on a size": lambda x, y: aten.mul(x, y) if x.shape[1] > 4 else aten.add(x, y),
    "several in place of one": lambda x, y: aten.tanh(aten.sin(aten.cos(aten.mul(x, y)))),
    "an argument itself": lambda x, y: x,
    "a literal operand": lambda x, y: aten.mul(aten.add(x, 2), 3.5),
    "a cast": lambda x, y: aten._to_copy(aten.mul(x.to(BF16), y.to(BF16)), dtype=F32),
}  # fmt: skip


@both
@pytest.mark.parametrize("name", SHAPED)
def test_replacements_that_look_at_sizes(name: str, dynamic: bool) -> None:
    define = rule(add_relu, SHAPED[name], (2, 4), (2, 4))

    def model(x: Any, y: Any) -> Any:
        a = add_relu(x, y)
        b = add_relu(aten.neg(a), y)
        return aten.cos(add_relu(b, a))

    agree(define, graph_of(model, dynamic), count=3, spy=True)


@both
def test_several_shapes_in_one_graph(dynamic: bool) -> None:
    """Each match is instantiated for its own sizes."""
    define = rule(add_relu, SHAPED["view of the flattened"], (2, 4), (2, 4))

    def model(x: Any, y: Any) -> Any:
        a = add_relu(x, y)
        left, right = aten.slice(a, 1, 0, 4), aten.slice(a, 1, 4, 8)
        b = add_relu(left, right)
        return add_relu(aten.cat([b, b], 0), aten.cat([b, b], 0))

    agree(define, graph_of(model, dynamic), count=3, spy=True)


SEARCHES: dict[str, tuple[Any, Any, Any]] = {
    # name -> (search, model that matches once, model that does not)
    "literal": (
        lambda x, y: aten.add(aten.mul(x, 2.0), y),
        lambda x, y: aten.add(aten.mul(x, 2.0), y),
        lambda x, y: aten.add(aten.mul(x, 2.5), y),
    ),
    "dim": (
        lambda x, y: aten.add(aten.sum(x, [-1], True), y),
        lambda x, y: aten.add(aten.sum(x, [-1], True), y),
        lambda x, y: aten.add(aten.sum(x, [0], True), y),
    ),
    "dtype": (
        lambda x, y: prims.convert_element_type(aten.add(x, y), BF16),
        lambda x, y: prims.convert_element_type(aten.add(x, y), BF16),
        lambda x, y: prims.convert_element_type(aten.add(x, y), F16),
    ),
    "keyword literal": (
        lambda x, y: aten.relu(aten.add(x, y, alpha=2)),
        lambda x, y: aten.relu(aten.add(x, y, alpha=2)),
        lambda x, y: aten.relu(aten.add(x, y, alpha=3)),
    ),
    "keyword against default": (
        lambda x, y: aten.relu(aten.add(x, y, alpha=2)),
        lambda x, y: aten.relu(aten.add(x, y, alpha=2)),
        lambda x, y: aten.relu(aten.add(x, y)),
    ),
    "own sizes": (
        lambda x, y: aten.mul(x.reshape(x.shape[1], x.shape[0]), aten.permute(y, [1, 0])),
        lambda x, y: aten.mul(x.reshape(x.shape[1], x.shape[0]), aten.permute(y, [1, 0])),
        lambda x, y: aten.mul(x.reshape(4, -1), y.reshape(4, -1)),
    ),
    "a slice of half": (
        lambda x, y: aten.mul(x[:, : x.shape[1] // 2], y[:, x.shape[1] // 2 :]),
        lambda x, y: aten.mul(x[:, :4], y[:, 4:]),
        lambda x, y: aten.mul(x[:, :3], y[:, 5:]),
    ),
    "a list of two": (
        lambda x, y: aten.relu(aten.cat([x, y], 1)),
        lambda x, y: aten.relu(aten.cat([x, y], 1)),
        lambda x, y: aten.relu(aten.cat([x, y, x], 1)),
    ),
}


@both
@pytest.mark.parametrize("name", SEARCHES)
def test_what_a_search_compares(name: str, dynamic: bool) -> None:
    search, model, other = SEARCHES[name]
    define = rule(search, lambda x, y: search(aten.neg(x), y), (4, 8), (4, 8))
    agree(define, graph_of(model, dynamic), count=1, spy=True)
    agree(define, graph_of(other, dynamic), count=0, spy=True)
