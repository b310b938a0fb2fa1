"""Sums of reductions become one: what merges, what does not, and that the numbers stay."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sums.builder import RANKS, Sums, aten, c10d
from torch import fx

import spfast
from spfast.testing.lockstep import assert_equivalent
from spfast.verifier import snapshot, verify

Body = Callable[[Sums], fx.Node]


def of_three(b: Sums) -> fx.Node:
    return b.add(b.add(b.reduced("q"), b.reduced("k")), b.reduced("v"))


def of_two_sums(b: Sums) -> fx.Node:
    return b.add(b.add(b.reduced("a"), b.reduced("b")), b.add(b.reduced("c"), b.reduced("d")))


def difference(b: Sums) -> fx.Node:
    return b.call(aten.sub.Tensor, b.reduced("a"), b.reduced("b"), alpha=3)


def scaled(b: Sums) -> fx.Node:
    halved = b.call(aten.div.Tensor, b.reduced("a"), 2.0)
    negated = b.call(aten.neg.default, b.call(aten.mul.Scalar, b.reduced("b"), 0.5))
    return b.add(halved, negated)


def copied(b: Sums) -> fx.Node:
    clone = b.call(aten.clone.default, b.reduced("a"))
    return b.add(clone, b.call(aten.detach.default, b.reduced("b")))


def copied_beside_a_residual(b: Sums) -> fx.Node:
    stream = b.add(b.reduced("a"), b.placeholder("r", (b.rows, 4), b.dtype))
    return b.add(stream, b.call(aten.clone.default, b.reduced("b")))


def viewed(b: Sums) -> fx.Node:
    left = b.call(aten.view.default, b.reduced("a"), [-1, 2, 2])
    return b.add(left, b.call(aten.reshape.default, b.reduced("b"), [-1, 2, 2]))


def viewed_on_one_side(b: Sums) -> fx.Node:
    sized = b.placeholder("c", (b.rows, 1, 4), b.dtype, "per_rank")
    return b.add(b.call(aten.unsqueeze.default, b.reduced("a"), 1), b.reduced(sized))


def around_a_residual(b: Sums) -> fx.Node:
    residual = b.placeholder("r", (b.rows, 4), b.dtype)
    return b.add(b.reduced("b"), b.add(residual, b.reduced("a")))


def thrice_around_a_residual(b: Sums) -> fx.Node:
    residual = b.placeholder("r", (b.rows, 4), b.dtype)
    return b.add(b.add(b.add(residual, b.reduced("a")), b.reduced("b")), b.reduced("c"))


def of_scatters(b: Sums) -> fx.Node:
    return b.call(aten.sub.Tensor, b.scattered("a"), b.scattered("b"))


def of_slices(b: Sums) -> fx.Node:
    wide = b.placeholder("wide", (b.rows, 8), b.dtype, "per_rank")
    return b.add(b.reduced(b.call(aten.slice.Tensor, wide, 1, 0, 4)), b.reduced("a"))


MERGE = {
    "of slices": (of_slices, 1),
    "of three": (of_three, 2),
    "of two sums": (of_two_sums, 3),
    "a difference": (difference, 1),
    "scaled": (scaled, 1),
    "copied": (copied, 1),
    "copied beside a residual": (copied_beside_a_residual, 1),
    "viewed": (viewed, 1),
    "viewed on one side": (viewed_on_one_side, 1),
    "around a residual": (around_a_residual, 1),
    "thrice around a residual": (thrice_around_a_residual, 2),
    "of reduce_scatters": (of_scatters, 1),
}


def count(graph: fx.Graph, word: str = "") -> int:
    words = [word] if word else ["all_reduce", "reduce_scatter"]
    return sum(
        any(word in str(node.target) for word in words)
        for node in graph.nodes
        if node.op == "call_function"
    )


def rewrite(graph: fx.Graph, rank: int = 0, **config: Any) -> spfast.Result:
    said = {"recognise": "patterns", "tp_size": RANKS, "tp_rank": rank} | config
    result = spfast.apply(graph, spfast.SequenceParallelConfig(**said))
    graph.lint()
    assert len(graph.nodes) == len(list(graph.nodes))
    return result


@pytest.mark.parametrize("recognise", ["patterns", "both"])
@pytest.mark.parametrize("dialect", ["functional", "vllm"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MERGE)
def test_one_reduction_does_for_all(name: str, dynamic: bool, dialect: str, recognise: str) -> None:
    body, gone = MERGE[name]
    build = Sums(dialect, dynamic)
    # A row-wise operator behind the sum: the merged reduction is a site like any other.
    build.output([build.call(aten.relu.default, body(build))])
    before, were = snapshot(build.graph), count(build.graph)

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, recognise=recognise, validate=True)

    inputs = [[spec.make(rank, 8, 1) for spec in build.inputs] for rank in range(RANKS)]
    results = assert_equivalent(build.graph, apply, inputs, RANKS, rtol=1e-6)
    (merged,) = results[0].merged
    assert len(merged.gone) == gone

    result = rewrite(build.graph, recognise=recognise)
    assert count(build.graph) == were - gone
    assert result.merged == (merged,)
    verified = verify(before, build.graph, spfast.SequenceParallelConfig(tp_size=2, tp_rank=0))
    assert not verified.problems, str(verified)


def in_place(b: Sums) -> fx.Node:
    copy = b.call(aten.clone.default, b.part("a"))
    return b.call(c10d.wait_tensor.default, b.call(c10d.all_reduce_.default, copy, "sum", "0"))


def one_of_several(b: Sums) -> fx.Node:
    started = b.call(c10d.all_reduce_coalesced.default, [b.part("a")], "sum", "0")
    return b.call(c10d.wait_tensor.default, b.call(operator.getitem, started, 0))


@pytest.mark.parametrize("form", [in_place, one_of_several])
def test_what_only_the_rewrite_makes_alike_is_merged_after_it(form: Body) -> None:
    build = Sums()
    build.output([build.call(aten.relu.default, build.add(form(build), build.reduced("b")))])

    def apply(graph: fx.Graph, rank: int) -> spfast.Result:
        return rewrite(graph, rank, recognise="both", validate=True)

    if form is in_place:  # of several tensors, collectives are not simulated
        inputs = [[spec.make(rank, 8, 1) for spec in build.inputs] for rank in range(RANKS)]
        assert_equivalent(build.graph, apply, inputs, RANKS, rtol=1e-6)
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0)
    foreseen = spfast.explain(build.graph, config).merged
    (merged,) = apply(build.graph, 0).merged
    assert foreseen == (merged,)
    assert (count(build.graph, "reduce_scatter"), count(build.graph, "all_reduce")) == (1, 0)
    once = str(build.graph)
    assert rewrite(build.graph, recognise="both").merged == ()
    assert str(build.graph) == once


def test_a_failure_takes_the_later_merging_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Sums()
    build.output([build.call(aten.relu.default, build.add(in_place(build), build.reduced("b")))])
    before = dump(build.graph)

    def fail(self: Any) -> None:
        assert count(build.graph, "reduce_scatter") == 1
        raise RuntimeError("no guard")

    monkeypatch.setattr("spfast.run.run.Run.guard", fail)
    with pytest.raises(RuntimeError, match="no guard"):
        rewrite(build.graph, recognise="both")
    assert dump(build.graph) == before


def read_twice(b: Sums) -> fx.Node:
    left = b.reduced("a")
    return b.add(b.add(left, b.reduced("b")), b.call(aten.relu.default, left))


def of_two_groups(b: Sums) -> fx.Node:
    return b.add(b.reduced("a"), b.reduced("b", group="1"))


def of_maxima(b: Sums) -> fx.Node:
    return b.add(b.reduced("a", op="max"), b.reduced("b", op="max"))


def through_a_cast(b: Sums) -> fx.Node:
    left, right = (
        b.call(torch.ops.prims.convert_element_type.default, b.reduced(name), torch.float64)
        for name in "ab"
    )
    return b.add(left, right)


def through_relu(b: Sums) -> fx.Node:
    left, right = (b.call(aten.relu.default, b.reduced(name)) for name in "ab")
    return b.add(left, right)


def scaled_by_a_tensor(b: Sums) -> fx.Node:
    scale = b.placeholder("s", (), b.dtype, "per_rank")
    return b.add(b.call(aten.mul.Tensor, b.reduced("a"), scale), b.reduced("b"))


def broadcast(b: Sums) -> fx.Node:
    row = b.placeholder("row", (1, 4), b.dtype, "per_rank")
    return b.add(b.reduced("a"), b.reduced(row))


def written_to(b: Sums) -> fx.Node:
    part = b.part("a")
    own = b.call(aten.mul.Tensor, part, 2.0)
    left = b.reduced(own)
    b.call(aten.add_.Tensor, own, 1.0)
    return b.add(left, b.reduced("b"))


def around_what_is_written_to(b: Sums) -> fx.Node:
    residual = b.placeholder("r", (b.rows, 4), b.dtype)
    first = b.add(residual, b.reduced("a"))
    b.call(aten.zero_.default, residual)
    return b.add(first, b.reduced("b"))


def beside_columns(b: Sums) -> fx.Node:
    # Which operand comes first decides how a sum lies.
    columns = b.call(aten.t.default, b.placeholder("r", (4, 8), b.dtype))
    return b.add(b.add(columns, b.reduced("a")), b.reduced("b"))


def of_columns(b: Sums) -> fx.Node:
    columns = b.call(aten.t.default, b.placeholder("c", (4, 8), b.dtype, "per_rank"))
    return b.add(b.reduced(columns), b.reduced("a"))


def of_unlike_suspicion(b: Sums) -> fx.Node:
    # Added up before, only the product would be taken for one rank's part, and not the input.
    product = b.call(aten.mm.default, b.part("x"), b.placeholder("w", (4, 4), b.dtype))
    return b.add(b.reduced("a"), b.reduced(product))


KEPT = [
    read_twice,
    of_two_groups,
    of_maxima,
    through_a_cast,
    through_relu,
    scaled_by_a_tensor,
    broadcast,
    written_to,
    around_what_is_written_to,
    beside_columns,
    of_columns,
    of_unlike_suspicion,
]


@pytest.mark.parametrize("body", KEPT, ids=lambda body: body.__name__)
def test_what_is_no_sum_stays(body: Body) -> None:
    build = Sums()
    build.output([body(build)])
    before = str(build.graph)
    result = rewrite(build.graph, groups={"0": (2, 0), "1": (2, 0)}, tp_size=None, tp_rank=None)
    assert result.merged == ()
    assert str(build.graph) == before


def test_the_switch() -> None:
    build = Sums()
    build.output([of_three(build)])
    before = str(build.graph)
    assert rewrite(build.graph, merge_sums=False).merged == ()
    assert str(build.graph) == before


def dump(graph: fx.Graph) -> list[Any]:
    return [
        (n.name, n.op, n.target, n.args, n.kwargs, list(n.users), dict(n.meta)) for n in graph.nodes
    ]


@pytest.mark.parametrize("name", MERGE)
def test_explain_says_so_and_changes_nothing(name: str) -> None:
    body, gone = MERGE[name]
    build = Sums()
    build.output([body(build)])
    before = dump(build.graph)
    found = build.graph.find_nodes(op="call_function", target=c10d.all_reduce.default, sort=False)
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0)
    explanation = spfast.explain(build.graph, config)
    assert dump(build.graph) == before
    build.graph.lint()
    assert found == build.graph.find_nodes(
        op="call_function", target=c10d.all_reduce.default, sort=False
    )
    (merged,) = explanation.merged
    assert len(merged.gone) == gone
    assert f"merged first: {merged}" in str(explanation)


def test_the_words() -> None:
    build = Sums()
    build.output([of_three(build)])
    (merged,) = rewrite(build.graph).merged
    assert str(merged) == (
        "all_reduce_default_2 reduces the sum of what it and all_reduce_default, "
        "all_reduce_default_1 reduced"
    )


def test_a_failure_takes_the_merging_back(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Sums()
    build.output([build.call(aten.relu.default, of_three(build))])
    before = dump(build.graph)

    def fail(self: Any) -> None:
        raise RuntimeError("no guard")

    monkeypatch.setattr("spfast.run.run.Run.guard", fail)
    with pytest.raises(RuntimeError, match="no guard"):
        rewrite(build.graph, recognise="both")
    assert dump(build.graph) == before


def test_a_wrong_merging_is_not_proved() -> None:
    build = Sums()
    build.output([difference(build)])
    before = snapshot(build.graph)
    rewrite(build.graph)
    (changed,) = build.graph.find_nodes(op="call_function", target=aten.sub.Tensor)
    changed.kwargs = {"alpha": 2}
    config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0)
    assert [p.node for p in verify(before, build.graph, config).problems] == [changed.name]


def test_rounding_is_no_worse() -> None:
    """In bf16, against float64: one rounding of a sum in place of several."""
    build = Sums(dtype=torch.bfloat16)
    build.output([of_three(build)])
    graphs = [build.graph, fx.Graph()]
    errors = []
    from spfast.testing.lockstep import copy_graph, run_lockstep

    graphs[1] = copy_graph(build.graph)
    rewrite(graphs[1])
    for graph in graphs:
        total = 0.0
        for seed in range(20):
            inputs = [[spec.make(rank, 8, seed) for spec in build.inputs] for rank in range(RANKS)]
            exact = sum(value.double() for values in inputs for value in values)
            (found,) = run_lockstep([graph] * RANKS, inputs)[0]
            total += float((found.double() - exact).square().sum())
        errors.append(total)
    assert errors[1] <= 1.1 * errors[0]
