"""Sums over tokens: each rank sums its own rows, and an all_reduce of the parts is the sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.testing import copy_graph
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.testing.lockstep import assert_equivalent
from spfast.verifier import snapshot, verify

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
RANKS = 2


class Steps(GraphBuilder):
    """What a backward pass does with the gradient of a norm's result: the all_reduce comes first.

    Attributes:
        gradient: The reduced value.
        saved: What the norm saved: this rank's part of another all_reduce, reduced.
    """

    def __init__(
        self, dialect: str, dynamic: bool, dtype: torch.dtype, batched: bool, tokens: int = 8
    ) -> None:
        super().__init__(tokens, dynamic)
        self.dialect = dialect
        rows = TOKENS if dynamic else tokens
        self.shape = (1, rows, 4) if batched else (rows, 4)
        self.lead = list(range(len(self.shape) - 1))
        self.dtype = dtype
        self.gradient = self.reduced("g")
        self.saved = self.call(aten.tanh.default, self.reduced("s"))

    def reduced(self, name: str, op: str = "sum") -> fx.Node:
        part = self.placeholder(name, self.shape, self.dtype, "per_rank")
        if self.dialect == "vllm":
            return self.call(torch.ops.vllm.all_reduce.default, part, "tp:0")
        reduced = self.call(c10d.all_reduce.default, part, op, "0")
        return self.call(c10d.wait_tensor.default, reduced)

    def product(self) -> fx.Node:
        return self.call(aten.mul.Tensor, self.gradient, self.saved)

    def sum(self, value: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
        return self.call(aten.sum.dim_IntList, value, *args, **kwargs)

    def passed_on(self) -> fx.Node:
        """The gradient that goes on, and is read in full by a product of matrices."""
        weight = self.placeholder("w", (4, 4), self.dtype)
        onward = self.call(aten.add.Tensor, self.gradient, self.saved)
        flat = self.call(aten.view.default, onward, [-1, 4])
        return self.call(aten.mm.default, flat, weight)


Body = Callable[[Steps], "list[fx.Node]"]


def of_a_weight(b: Steps) -> list[fx.Node]:
    return [b.sum(b.product(), b.lead, True), b.passed_on()]


def without_dims(b: Steps) -> list[fx.Node]:
    return [b.call(aten.relu.default, b.sum(b.product(), b.lead)), b.passed_on()]


def from_the_back(b: Steps) -> list[fx.Node]:
    return [b.sum(b.product(), [dim - len(b.shape) for dim in b.lead]), b.passed_on()]


def of_a_weight_and_a_bias(b: Steps) -> list[fx.Node]:
    return [b.sum(b.product(), b.lead), b.sum(b.gradient, b.lead), b.passed_on()]


def of_a_view(b: Steps) -> list[fx.Node]:
    flat = b.call(aten.view.default, b.product(), [-1, 4])
    return [b.sum(flat, [0]), b.passed_on()]


def of_heads(b: Steps) -> list[fx.Node]:
    heads = b.call(aten.view.default, b.product(), [-1, 2, 2])
    return [b.sum(heads, [0], True), b.passed_on()]


def added_to_rows(b: Steps) -> list[fx.Node]:
    """The whole sum is read beside rows."""
    total = b.sum(b.product(), b.lead, True)
    return [b.call(aten.mul.Tensor, b.call(aten.relu.default, b.gradient), total), b.passed_on()]


def of_rows_of_whole_values(b: Steps) -> list[fx.Node]:
    """What leaves whole is computed whole, and each rank sums its rows of it."""
    given = b.placeholder("t", b.shape, b.dtype)
    leaves = b.call(aten.tanh.default, b.gradient)
    summed = b.sum(b.call(aten.mul.Tensor, leaves, given), b.lead)
    return [summed, leaves, b.gradient, b.passed_on()]


TOTALS = [
    of_a_weight,
    without_dims,
    from_the_back,
    of_a_weight_and_a_bias,
    of_a_view,
    of_heads,
    added_to_rows,
    of_rows_of_whole_values,
]


def rewrite(graph: fx.Graph, rank: int = 0, **config: Any) -> spfast.Result:
    said = {"tp_size": RANKS, "tp_rank": rank, "recognise": "both"} | config
    result = spfast.apply(graph, spfast.SequenceParallelConfig(**said))
    graph.lint()
    return result


def count(graph: fx.Graph, word: str) -> int:
    return sum(word in str(node.target) for node in graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("batched", [False, True], ids=["flat", "batched"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("dialect", ["functional", "vllm"])
@pytest.mark.parametrize("body", TOTALS, ids=lambda body: body.__name__)
def test_each_rank_sums_its_own_rows(
    body: Body, dialect: str, dynamic: bool, batched: bool
) -> None:
    build = Steps(dialect, dynamic, torch.float32, batched)
    build.output(body(build))
    before = snapshot(build.graph)

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, validate=True)

    inputs = [[spec.make(rank, 8, 1) for spec in build.inputs] for rank in range(RANKS)]
    assert_equivalent(build.graph, apply, inputs, RANKS, rtol=1e-6)

    result = rewrite(build.graph)
    sums = count(build.graph, "sum.dim_IntList") // 2  # each reads the sum of the parts
    assert sums and len(result.totals) == sums
    assert count(build.graph, "reduce_scatter") == 2
    assert count(build.graph, "all_reduce") == sums
    assert str(result).count("an all_reduce of the parts finishes it") == 1
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0)
    verified = verify(before, build.graph, config)
    assert not verified.problems, str(verified)


@pytest.mark.parametrize("body", TOTALS, ids=lambda body: body.__name__)
def test_a_rank_with_a_single_row_sums_that(body: Body) -> None:
    build = Steps("functional", False, torch.float32, False, tokens=RANKS)
    build.output(body(build))

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, validate=True)

    inputs = [[spec.make(rank, RANKS, 1) for spec in build.inputs] for rank in range(RANKS)]
    results = assert_equivalent(build.graph, apply, inputs, RANKS, rtol=1e-6)
    assert results[0].totals


def over_features_too(b: Steps) -> list[fx.Node]:
    return [b.sum(b.product(), [*b.lead, len(b.lead)]), b.passed_on()]


def in_another_dtype(b: Steps) -> list[fx.Node]:
    return [b.sum(b.product(), b.lead, dtype=torch.float64), b.passed_on()]


def of_truths(b: Steps) -> list[fx.Node]:
    return [b.sum(b.call(aten.gt.Scalar, b.product(), 0.0), b.lead), b.passed_on()]


def largest(b: Steps) -> list[fx.Node]:
    return [b.call(aten.amax.default, b.product(), b.lead), b.passed_on()]


@pytest.mark.parametrize(
    "body",
    [over_features_too, in_another_dtype, of_truths, largest],
    ids=lambda body: body.__name__,
)
def test_what_is_no_such_sum_reads_all_rows(body: Body) -> None:
    build = Steps("functional", False, torch.float32, False)
    build.output(body(build))

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, validate=True)

    inputs = [[spec.make(rank, 8, 1) for spec in build.inputs] for rank in range(RANKS)]
    results = assert_equivalent(build.graph, apply, inputs, RANKS, rtol=1e-6)
    assert results[0].totals == ()


def test_a_group_that_takes_the_largest_sums_no_parts() -> None:
    build = GraphBuilder(8, False)
    part = build.placeholder("g", (8, 4), torch.float32, "per_rank")
    reduced = build.call(c10d.all_reduce.default, part, "max", "0")
    waited = build.call(c10d.wait_tensor.default, reduced)
    rows = build.call(aten.relu.default, waited)
    build.output([build.call(aten.sum.dim_IntList, rows, [0])])
    assert rewrite(build.graph).totals == ()


def test_the_sum_of_one_number_a_token_is_proved() -> None:
    build = Steps("functional", False, torch.float32, False)
    numbers = build.sum(build.product(), [-1])
    build.output([build.sum(numbers, [0]), build.passed_on()])
    assert rewrite(copy_graph(build.graph), validate=True).totals

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, validate=True)

    inputs = [[spec.make(rank, 8, 1) for spec in build.inputs] for rank in range(RANKS)]
    assert_equivalent(build.graph, apply, inputs, RANKS, rtol=1e-6)


def test_the_last_bits_of_bfloat16_may_differ() -> None:
    """The ranks' parts are rounded once more each, and no more than that."""
    build = Steps("functional", False, torch.bfloat16, False)
    build.output(of_a_weight(build))

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, validate=True)

    inputs = [[spec.make(rank, 8, 1) for spec in build.inputs] for rank in range(RANKS)]
    assert_equivalent(build.graph, apply, inputs, RANKS, rtol=2.0**-6)


def test_explain_says_it() -> None:
    build = Steps("functional", False, torch.float32, False)
    build.output(of_a_weight(build))
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0)
    said = spfast.explain(build.graph, config)
    (total,) = said.totals
    line = f"  %{total}: each rank sums its own rows, and an all_reduce of the parts finishes it"
    assert line in str(said).splitlines()
    assert said.to_json()["totals"] == (total,)
    assert rewrite(build.graph).to_dict()["totals"] == [total]


def test_a_repeated_dim_is_no_reason_to_stay() -> None:
    """A column that is repeated for an elementwise operator has strides that nobody sees."""
    build = GraphBuilder(8, False)
    part = build.placeholder("g", (8, 4), torch.float32, "per_rank")
    reduced = build.call(c10d.all_reduce.default, part, "sum", "0")
    waited = build.call(c10d.wait_tensor.default, reduced)
    column = build.call(aten.sum.dim_IntList, waited, [1], True)
    mean = build.call(aten.div.Scalar, build.call(aten.expand.default, column, [8, 4]), 4)
    largest = build.call(aten.amax.default, build.call(aten.mul.Tensor, mean, waited), [0])
    weight = build.placeholder("w", (4, 4), torch.float32)
    build.output([largest, build.call(aten.mm.default, waited, weight)])
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0, recognise="rowwise")
    (entry,) = spfast.explain(build.graph, config).entries
    assert "would move more bytes" in entry.reason
