"""What the rewritten graph alone has is judged by the original values that it is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from api.layers import RANKS, Layers, aten, of_rank
from torch import fx

import spfast

c10d = torch.ops._c10d_functional
Gate = Callable[[Layers], fx.Node]
Form = Callable[[Layers, fx.Node], fx.Node]

ROWS = 8 // RANKS


def weight(b: Layers) -> fx.Node:
    return b.placeholder("gate", (1, 16), torch.float32)


def exchanged(b: Layers) -> fx.Node:
    """What another rank sent, which is another value on each."""
    sent = b.placeholder("sent", (RANKS, 16), torch.float32, kind="per_rank")
    ones = [1] * RANKS
    got = b.wait(b.call(c10d.all_to_all_single.default, sent, ones, ones, "tp"))
    return b.call(aten.sum.dim_IntList, got, [0], True)


def expanded(b: Layers, gate: fx.Node) -> fx.Node:
    return b.call(aten.expand.default, gate, [ROWS, 16])


def cut(b: Layers, gate: fx.Node) -> fx.Node:
    return b.call(aten.slice.Tensor, b.call(aten.expand.default, gate, [8, 16]), 0, 0, ROWS)


def copied(b: Layers, gate: fx.Node) -> fx.Node:
    return b.call(aten.clone.default, expanded(b, gate))


FORMS = [expanded, cut, copied]


def pair(gate: Gate, form: Form) -> tuple[fx.Graph, fx.Graph]:
    """A gate that was broadcast, and takes another form beside this rank's rows."""
    was = Layers()
    part, given = was.partial(), gate(was)
    total = was.wait(was.call(c10d.all_reduce.default, part, "sum", "tp"))
    was.output([was.call(aten.mul.Tensor, total, given)])
    now = Layers()
    part, given = now.partial(), gate(now)
    rows = now.wait(now.call(c10d.reduce_scatter_tensor.default, part, "sum", RANKS, "tp"))
    gated = now.call(aten.mul.Tensor, rows, form(now, given))
    now.output([now.wait(now.call(c10d.all_gather_into_tensor.default, gated, RANKS, "tp"))])
    return was.graph, now.graph


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_in_another_form_is_assumed_by_its_own_name(form: Form) -> None:
    found = spfast.verify(*pair(weight, form), of_rank(0))
    assert found.ok, str(found)
    assert [each.value for each in found.assumptions] == ["gate"]


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_that_is_vouched_for_is_proved_in_another_form(form: Form) -> None:
    found = spfast.verify(*pair(weight, form), of_rank(0, replicated=["gate"]))
    assert found.ok, str(found)
    assert not found.assumptions
    refused = spfast.verify(*pair(weight, form), of_rank(0, replicated="prove"))
    assert not refused.ok


@pytest.mark.parametrize("form", FORMS)
def test_a_rank_s_own_value_is_so_in_any_form(form: Form) -> None:
    found = spfast.verify(*pair(exchanged, form), of_rank(0))
    (problem,) = found.problems
    assert problem.reason == (
        "meets rows of one rank, but 'sum_dim_int_list' is another value on every rank: "
        "it comes from 'all_to_all_single_default'"
    )


def test_what_the_original_graph_does_not_compute_is_not_assumed() -> None:
    def drawn(b: Layers, gate: fx.Node) -> fx.Node:
        return b.call(aten.rand_like.default, gate)

    problems = spfast.verify(*pair(weight, drawn), of_rank(0)).problems
    reasons = {problem.node: problem.reason for problem in problems}
    assert reasons["rand_like_default"] == (
        "meets rows of one rank, but the original graph does not compute it"
    )


def test_what_a_rank_gets_in_the_rewritten_graph_alone_is_its_own() -> None:
    def got(b: Layers, gate: fx.Node) -> fx.Node:
        rows = b.call(aten.expand.default, gate, [RANKS, 16])
        copy = b.call(aten.clone.default, rows)
        return b.wait(b.call(c10d.reduce_scatter_tensor.default, copy, "sum", RANKS, "tp"))

    assert not spfast.verify(*pair(weight, got), of_rank(0)).ok
