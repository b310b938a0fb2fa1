"""Parts of a sum over the ranks: proved where an all_reduce finishes them, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.testing.builder import GraphBuilder
from spfast.verifier import verify

aten, funcol = torch.ops.aten, torch.ops._c10d_functional


class Maker(GraphBuilder):
    """A graph of one reduced stream."""

    def __init__(self) -> None:
        super().__init__(tokens=8, dynamic=False)
        self.x = self.placeholder("x", (1, 8, 4), torch.float32, "per_rank")

    def wait(self, value: fx.Node) -> fx.Node:
        return self.call(funcol.wait_tensor.default, value)

    def reduce(self, value: fx.Node, op: str = "sum", group: str = "0") -> fx.Node:
        return self.wait(self.call(funcol.all_reduce.default, value, op, group))

    def scatter(self) -> fx.Node:
        flat = self.call(aten.reshape.default, self.x, [-1, 4])
        return self.wait(self.call(funcol.reduce_scatter_tensor.default, flat, "sum", 2, "0"))

    def sum(self, value: fx.Node, dims: list[int], keep: bool = False) -> fx.Node:
        return self.call(aten.sum.dim_IntList, value, dims, keep)


Body = Callable[[Maker], fx.Node]


def problems(before: Body, after: Body) -> list[str]:
    graphs = []
    for body in (before, after):
        made = Maker()
        made.output([body(made)])
        graphs.append(made.graph)
    config = SequenceParallelConfig(tp_size=2, tp_rank=1)
    return [problem.reason for problem in verify(*graphs, config).problems]


def total(m: Maker) -> fx.Node:
    return m.sum(m.reduce(m.x), [0, 1])


RIGHT: list[Body] = [
    lambda m: m.reduce(m.sum(m.scatter(), [0])),
    lambda m: m.sum(m.call(aten.reshape.default, m.reduce(m.sum(m.scatter(), [0])), [1, 4]), [0]),
    lambda m: m.call(aten.reshape.default, m.reduce(m.sum(m.scatter(), [-2], True)), [4]),
]


@pytest.mark.parametrize("after", RIGHT)
def test_an_all_reduce_finishes_the_parts(after: Body) -> None:
    assert problems(total, after) == []


PART = "one rank's part [4] of a sum over group '0'"
WRONG: dict[str, tuple[Body, str]] = {
    "a part is returned": (
        lambda m: m.sum(m.scatter(), [0]),
        f"returns 'sum_dim_int_list', which is {PART}",
    ),
    "the largest part": (
        lambda m: m.reduce(m.sum(m.scatter(), [0]), "max"),
        f"takes the max over group '0' of {PART} in 'sum_dim_int_list'",
    ),
    "another group's ranks": (
        lambda m: m.reduce(m.sum(m.scatter(), [0]), "sum", "1"),
        f"takes the sum over group '1' of {PART} in 'sum_dim_int_list'",
    ),
    "finished twice": (
        lambda m: m.reduce(m.reduce(m.sum(m.scatter(), [0]))),
        "",
    ),
    "not linear before": (
        lambda m: m.reduce(m.call(aten.relu.default, m.sum(m.scatter(), [0]))),
        f"reads {PART} in 'sum_dim_int_list'",
    ),
    "scattered parts": (
        lambda m: m.wait(
            m.call(funcol.reduce_scatter_tensor.default, m.sum(m.scatter(), [0]), "sum", 2, "0")
        ),
        f"reduces {PART} in 'sum_dim_int_list'",
    ),
    "over features": (lambda m: m.reduce(m.sum(m.scatter(), [1])), ""),
    "rows of this rank alone": (
        lambda m: m.call(aten.mul.Tensor, m.sum(m.scatter(), [0]), 2.0),
        "",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_part_is_nothing_else(name: str) -> None:
    after, reason = WRONG[name]
    found = problems(total, after)
    assert found
    assert not reason or reason in found, found


def test_small_whole_numbers_are_summed_as_larger_ones() -> None:
    """A sum over one row changes the dtype of booleans: it is no other name of them."""

    def before(m: Maker) -> fx.Node:
        return m.call(aten.gt.Scalar, m.call(aten.select.int, m.reduce(m.x), 1, 0), 0.0)

    def after(m: Maker) -> fx.Node:
        return m.sum(before(m), [0], True)

    assert problems(before, after)


def test_a_sum_of_repeated_rows_counts_them() -> None:
    graphs = []
    for rows in (8, 4):
        build = Maker()
        row = build.placeholder("row", (4,), torch.float32)
        spread = build.call(aten.expand.default, row, [rows, 4])
        build.output([build.sum(spread, [0])])
        graphs.append(build.graph)
    config = SequenceParallelConfig(tp_size=2, tp_rank=0)
    assert verify(graphs[0], graphs[0], config).ok
    assert not verify(graphs[0], graphs[1], config).ok
