"""Operators that return what they were given, though their schemas do not say so."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from api.layers import RANKS, Layers, aten, c10d, of_rank, reasons, run_as
from torch import fx

import spfast
from spfast.fxgraph.targets import may_return_operand

Make = Callable[[Layers, fx.Node], fx.Node]


def first_of(b: Layers, target: Any, *args: Any) -> fx.Node:
    return b.call(operator.getitem, b.call(target, *args), 0)


MADE: dict[str, Make] = {
    "type_as": lambda b, x: b.call(aten.type_as.default, x, x),
    "dropout that is off": lambda b, x: b.call(aten.dropout.default, x, 0.1, False),
    "dropout of nothing": lambda b, x: b.call(aten.dropout.default, x, 0.0, True),
    "alpha_dropout": lambda b, x: b.call(aten.alpha_dropout.default, x, 0.1, False),
    "feature_dropout": lambda b, x: b.call(aten.feature_dropout.default, x, 0.1, False),
    "native_dropout": lambda b, x: first_of(b, aten.native_dropout.default, x, 0.1, False),
    "einsum": lambda b, x: b.call(aten.einsum.default, "ij->ij", [x]),
    "atleast_2d": lambda b, x: b.call(aten.atleast_2d.default, x),
    "broadcast_tensors": lambda b, x: first_of(b, aten.broadcast_tensors.default, [x]),
    "sum_to_size": lambda b, x: b.call(aten.sum_to_size.default, x, [8, 16]),
    "conj_physical": lambda b, x: b.call(aten.conj_physical.default, x),
    "wait_tensor": lambda b, x: b.call(c10d.wait_tensor.default, x),
    "lift": lambda b, x: b.call(aten.lift.default, x),
    "_cast_Float": lambda b, x: b.call(aten._cast_Float.default, x),
    "unsafe_split": lambda b, x: first_of(b, aten.unsafe_split.Tensor, x, 8),
}


@pytest.mark.parametrize("made", MADE)
def test_what_is_written_to_the_result_is_in_the_operand(made: str) -> None:
    """A rank's own value reaches the constant by another name."""
    build = Layers()
    constant = build.call(aten.zeros.default, [8, 16])
    alias = MADE[made](build, constant)
    called = alias.args[0] if alias.target is operator.getitem else alias
    assert isinstance(called.target, torch._ops.OpOverload) and may_return_operand(called.target)
    build.call(aten.add_.Tensor, alias, build.x)
    total = build.call(
        c10d.wait_tensor.default, build.call(c10d.all_reduce.default, build.partial(), "sum", "tp")
    )
    added = build.call(aten.add.Tensor, total, constant)
    build.output([build.norm(added)])
    assert [int(result) for result in run_as(build, build)] == [0] * RANKS
    assert int(spfast.apply(build.graph, of_rank(0, replicated="prove"))) == 0


def test_a_reduction_in_place_of_the_result_is_seen_in_the_operand() -> None:
    build = Layers()
    partial = build.partial()
    lifted = build.call(aten.lift.default, partial)
    total = build.wait(build.call(c10d.all_reduce_.default, lifted, "sum", "tp"))
    build.output([build.norm(total), build.call(aten.relu.default, partial)])
    assert reasons(build.graph) == {
        "all_reduce__default": "it writes to memory of %mm_default, which %relu_default reads "
        "afterwards"
    }


def test_the_verifier_sees_it_by_itself() -> None:
    """What was read before a write and what is read after it are different values."""

    def graph(late: bool) -> fx.Graph:
        build = Layers()
        constant = build.call(aten.zeros.default, [8, 16])
        alias = build.call(aten.type_as.default, constant, constant)
        early = None if late else build.call(aten.relu.default, constant)
        build.call(aten.add_.Tensor, alias, build.x)
        build.output([build.call(aten.relu.default, constant) if early is None else early])
        return build.graph

    assert spfast.verify(graph(True), graph(True), of_rank(0)).ok
    assert not spfast.verify(graph(True), graph(False), of_rank(0)).ok
