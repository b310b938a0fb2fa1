"""Values that lie otherwise than fresh ones, on one rank's rows."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from support.shape_graphs import ShapeGraph, rewritten

aten = torch.ops.aten


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("symbolic", [False, True])
def test_a_feature_that_is_selected(place: int, symbolic: bool) -> None:
    """One number a token, as far apart as rows are."""

    def build() -> ShapeGraph:
        g = ShapeGraph(**({"s": 8} if symbolic else {}))
        s: Any = "s" if symbolic else 8
        total = g.call(aten.add.Tensor, g.reduce(g.partial("x", s, 16)), g.full("r", s, 16))
        return g.done(g.call(aten.exp.default, g.call(aten.select.int, total, 1, place)))

    rewritten(build, 1, validate=True)


@pytest.mark.parametrize("ranks", [2, 4])
def test_gates_that_are_parts_of_one_value_a_sample(ranks: int) -> None:
    """A single row of a part has a stride of its own in some of torch's ways to a reshape."""

    def build() -> ShapeGraph:
        g = ShapeGraph()
        x, residual = g.partial("x", 2, 8, 16), g.full("r", 2, 8, 16)
        parts = g.call(aten.split.Tensor, g.full("m", 2, 48), 16, -1)
        scale, shift, gate = (
            g.call(aten.unsqueeze.default, g.call(operator.getitem, parts, at), 1)
            for at in range(3)
        )
        y = g.call(aten.add.Tensor, g.call(aten.mul.Tensor, g.reduce(x), scale), shift)
        y = g.call(aten.add.Tensor, y, residual)
        mean = g.call(aten.mean.dim, g.call(aten.pow.Tensor_Scalar, y, 2), [-1], True)
        y = g.call(aten.mul.Tensor, y, g.call(aten.rsqrt.default, mean))
        return g.done(g.call(aten.mul.Tensor, y, gate))

    rewritten(build, 1, ranks=ranks, validate=True)
