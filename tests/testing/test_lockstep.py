"""The lockstep interpreter: right sums and rows, clear errors where ranks do not fit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._higher_order_ops.auto_functionalize import auto_functionalized, auto_functionalized_v2

from spfast.testing.lockstep import LockstepError, assert_equivalent, assert_same, run_lockstep

FUNCTIONAL = torch.ops._c10d_functional
VLLM = torch.ops.vllm


def build(body: Callable[[fx.Graph, fx.Node], Any]) -> fx.Graph:
    graph = fx.Graph()
    graph.output(body(graph, graph.placeholder("x")))
    return graph


def single(target: Any, *rest: Any) -> fx.Graph:
    return build(lambda graph, x: graph.call_function(target, (x, *rest)))


def ranks(count: int, rows: int = 4) -> list[list[Any]]:
    return [
        [torch.arange(rows * 2, dtype=torch.float32).reshape(rows, 2) + 100 * rank]
        for rank in range(count)
    ]


@pytest.mark.parametrize(
    ("reduce_op", "expected"),
    [
        ("sum", lambda parts: sum(parts)),
        ("avg", lambda parts: sum(parts) / 3),
        ("max", lambda parts: parts[-1]),
    ],
)
def test_functional_all_reduce(
    reduce_op: str, expected: Callable[[list[torch.Tensor]], torch.Tensor]
) -> None:
    inputs = ranks(3)
    graph = build(
        lambda g, x: g.call_function(
            FUNCTIONAL.wait_tensor.default,
            (g.call_function(FUNCTIONAL.all_reduce.default, (x, reduce_op, "0")),),
        )
    )
    for result in run_lockstep([graph] * 3, inputs):
        torch.testing.assert_close(result, expected([values[0] for values in inputs]))


def test_reduce_scatter_gives_each_rank_its_rows_and_all_gather_restores_them() -> None:
    inputs = ranks(2)
    total = inputs[0][0] + inputs[1][0]
    for target, rest in (
        (VLLM.reduce_scatter.default, (0, 2, "tp:0")),
        (FUNCTIONAL.reduce_scatter_tensor.default, ("sum", 2, "0")),
    ):
        scattered = run_lockstep([single(target, *rest)] * 2, inputs)
        assert torch.equal(scattered[0], total[:2]) and torch.equal(scattered[1], total[2:])
    for target, rest in (
        (VLLM.all_gather.default, (0, 2, "tp:0")),
        (FUNCTIONAL.all_gather_into_tensor.default, (2, "0")),
    ):
        gathered = run_lockstep([single(target, *rest)] * 2, [[value] for value in scattered])
        assert torch.equal(gathered[0], total) and torch.equal(gathered[1], total)


def test_float8_is_gathered() -> None:
    inputs = [[torch.full((1, 2), float(rank)).to(torch.float8_e4m3fn)] for rank in range(2)]
    result = run_lockstep([single(VLLM.all_gather.default, 0, 2, "tp:0")] * 2, inputs)[1]
    assert result.dtype == torch.float8_e4m3fn
    assert result.float().tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_each_rank_runs_its_own_graph() -> None:
    graphs = [single(torch.ops.aten.slice.Tensor, 0, rank, rank + 1) for rank in range(2)]
    first, second = run_lockstep(graphs, ranks(2))
    assert first.tolist() == [[0.0, 1.0]] and second.tolist() == [[102.0, 103.0]]


def test_groups_meet_among_themselves() -> None:
    def body(graph: fx.Graph, x: fx.Node) -> fx.Node:
        pair = graph.call_function(VLLM.all_reduce.default, (x, "pair"))
        return graph.call_function(VLLM.all_reduce.default, (pair, "all"))

    inputs = [[torch.tensor([10.0**rank])] for rank in range(4)]
    only_pairs = run_lockstep(
        [single(VLLM.all_reduce.default, "pair")] * 4, inputs, groups={"pair": [[0, 1], [2, 3]]}
    )
    assert [result.item() for result in only_pairs] == [11.0, 11.0, 1100.0, 1100.0]
    both = run_lockstep(
        [build(body)] * 4, inputs, groups={"pair": [[0, 1], [2, 3]], "all": [0, 1, 2, 3]}
    )
    assert {result.item() for result in both} == {2222.0}


def test_functionalised_and_mutating_ops() -> None:
    quant = torch.ops._C.static_scaled_fp8_quant.default

    def body(graph: fx.Graph, x: fx.Node) -> tuple[fx.Node, fx.Node]:
        empty = graph.call_function(torch.ops.aten.empty_like.default, (x,))
        scale = graph.call_function(
            torch.ops.aten.full.default, ([1], 0.5), {"device": torch.device("meta")}
        )
        first = graph.call_function(
            auto_functionalized, (quant,), {"result": empty, "input": x, "scale": scale}
        )
        second = graph.call_function(
            auto_functionalized_v2,
            (quant,),
            {"input": x, "scale": scale, "_result_base_index": 0, "_all_bases": [empty]},
        )
        graph.call_function(torch.ops.aten.add_.Tensor, (x, 1.0))
        return (
            graph.call_function(operator.getitem, (first, 1)),
            graph.call_function(operator.getitem, (second, 1)),
        )

    inputs = ranks(1)
    original = inputs[0][0].clone()
    ((first, second),) = run_lockstep([build(body)], inputs)
    assert torch.equal(first, original * 2) and torch.equal(second, original * 2)
    assert torch.equal(inputs[0][0], original + 1)


def test_attributes_and_submodules_are_found() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 3)
            self.shift = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x).relu() + self.shift

    model = Model()
    inputs = ranks(1)
    (result,) = run_lockstep([fx.symbolic_trace(model)], inputs)
    torch.testing.assert_close(result, model(inputs[0][0]).detach())


def test_disagreement_names_rank_and_node() -> None:
    graphs = [single(VLLM.all_reduce.default, "g"), single(VLLM.all_gather.default, 0, 2, "g")]
    with pytest.raises(
        LockstepError, match="rank 1 at node all_gather.* rank 0 at node all_reduce.*collective"
    ):
        run_lockstep(graphs, ranks(2))
    with pytest.raises(
        LockstepError, match=r"rank 1 at node .* on the shape .*\(3, 2\) against \(4, 2\)"
    ):
        run_lockstep([graphs[0]] * 2, [ranks(1, 4)[0], ranks(1, 3)[0]])


def test_a_rank_that_never_comes_is_an_error_not_a_hang() -> None:
    graphs = [single(VLLM.all_reduce.default, "g"), single(torch.ops.aten.relu.default)]
    with pytest.raises(
        LockstepError, match="would hang: rank 0 at node all_reduce.*rank 1 has ended"
    ):
        run_lockstep(graphs, ranks(2))


def test_collectives_in_another_order_are_an_error() -> None:
    def ordered(*names: str) -> fx.Graph:
        def body(graph: fx.Graph, x: fx.Node) -> fx.Node:
            for name in names:
                x = graph.call_function(VLLM.all_reduce.default, (x, name))
            return x

        return build(body)

    with pytest.raises(LockstepError, match="would hang"):
        run_lockstep([ordered("a", "b"), ordered("b", "a")], ranks(2))


def test_lost_rows_a_wrong_size_and_a_failing_node_are_errors() -> None:
    with pytest.raises(LockstepError, match="rank 0 at node reduce_scatter.*3 rows over 2 ranks"):
        run_lockstep([single(VLLM.reduce_scatter.default, 0, 2, "g")] * 2, ranks(2, 3))
    with pytest.raises(LockstepError, match="says 8 ranks, but group 'g' has 2"):
        run_lockstep([single(VLLM.all_gather.default, 0, 8, "g")] * 2, ranks(2))
    with pytest.raises(LockstepError, match="rank 0 at node mm"):
        run_lockstep(
            [build(lambda g, x: g.call_function(torch.ops.aten.mm.default, (x, x)))], ranks(1)
        )
    with pytest.raises(LockstepError, match="1 placeholders but 2 inputs"):
        run_lockstep([single(torch.ops.aten.relu.default)], [[torch.ones(1), torch.ones(1)]])


def rewrite_site(graph: fx.Graph, rank: int, wrong_rows: bool = False) -> int:
    """all_reduce(x) + x -> the sharded form, by hand."""
    x = next(iter(graph.nodes))
    (reduced,) = (node for node in graph.nodes if node.target is VLLM.all_reduce.default)
    (added,) = (node for node in graph.nodes if node.target is torch.ops.aten.add.Tensor)
    with graph.inserting_before(reduced):
        scattered = graph.call_function(VLLM.reduce_scatter.default, (reduced.args[0], 0, 2, "g"))
        start = 0 if wrong_rows else 2 * rank
        rows = graph.call_function(torch.ops.aten.slice.Tensor, (x, 0, start, start + 2))
    added.args = (scattered, rows)
    with graph.inserting_after(added):
        gathered = graph.call_function(VLLM.all_gather.default, (added, 0, 2, "g"))
    added.replace_all_uses_with(gathered, delete_user_cb=lambda user: user is not gathered)
    graph.erase_node(reduced)
    return 1


def test_equivalence_holds_for_a_right_rewrite_and_fails_for_rows_of_rank_0_everywhere() -> None:
    def body(graph: fx.Graph, x: fx.Node) -> fx.Node:
        reduced = graph.call_function(VLLM.all_reduce.default, (x, "g"))
        return graph.call_function(torch.ops.aten.add.Tensor, (reduced, x))

    graph = build(body)
    names = [node.name for node in graph.nodes]
    same = [ranks(1)[0], ranks(1)[0]]
    assert assert_equivalent(graph, rewrite_site, same, world_size=2, rtol=0.0) == [1, 1]
    assert [node.name for node in graph.nodes] == names
    with pytest.raises(AssertionError, match=r"rank 0, output: .* first at \(2, 0\)"):
        assert_equivalent(
            graph, lambda copy, rank: rewrite_site(copy, rank, wrong_rows=True), same, 2
        )


def test_equivalence_sees_a_write_to_an_input() -> None:
    graph = build(lambda g, x: g.call_function(torch.ops.aten.add_.Tensor, (x, 1.0)))

    def drop_write(copy: fx.Graph, rank: int) -> None:
        node = next(node for node in copy.nodes if node.target is torch.ops.aten.add_.Tensor)
        node.target = torch.ops.aten.add.Tensor

    inputs = ranks(1)
    with pytest.raises(AssertionError, match="inputs after the run"):
        assert_equivalent(graph, drop_write, inputs, 1)
    assert torch.equal(inputs[0][0], ranks(1)[0][0])


def test_comparison_is_strict_about_shape_dtype_and_nan() -> None:
    one = torch.ones(2)
    assert_same(torch.tensor([float("nan")]), torch.tensor([float("nan")]), 0.0, "value")
    for other in (torch.ones(3), one.double(), one + 1e-3, torch.tensor([1.0, float("nan")]), None):
        with pytest.raises(AssertionError, match="value"):
            assert_same(other, one, 1e-6, "value")
    assert_same(one + 1e-7, one, 1e-6, "value")
