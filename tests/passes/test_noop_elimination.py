"""NoOpEliminationPass: what goes, what stays, and that no guard is ever added."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from spfast.errors import GraphError
from spfast.passes.noop_elimination import NoOpEliminationPass

aten = torch.ops.aten


class Builder:
    """An fx.Graph under construction whose nodes all carry fake values."""

    def __init__(self) -> None:
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env)
        self.graph = fx.Graph()

    def input(self, *shape: int, dynamic: tuple[int, ...] = ()) -> fx.Node:
        node = self.graph.placeholder(f"x{len(self.graph.nodes)}")
        context = StatelessSymbolicContext(
            [DimDynamic.DYNAMIC if i in dynamic else DimDynamic.STATIC for i in range(len(shape))]
        )
        node.meta["val"] = self.mode.from_tensor(torch.empty(shape), symbolic_context=context)
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        value = fx.map_arg(args, lambda n: n.meta["val"])
        with self.mode:
            node.meta["val"] = target(*value, **fx.map_arg(kwargs, lambda n: n.meta["val"]))
        return node

    def size(self, node: fx.Node, dim: int) -> fx.Node:
        result = self.graph.call_function(aten.sym_size.int, (node, dim))
        result.meta["val"] = node.meta["val"].shape[dim]
        return result


def run(graph: fx.Graph) -> NoOpEliminationPass:
    noop = NoOpEliminationPass()
    noop(graph)
    graph.lint()
    return noop


def targets(graph: fx.Graph) -> list[Any]:
    return [node.target for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("op", [aten.reshape.default, aten.view.default, aten._unsafe_view.default])
def test_a_reshape_to_the_same_shape_goes(op: Any) -> None:
    b = Builder()
    x = b.input(4, 8)
    neg = b.call(aten.neg.default, b.call(op, x, [4, 8]))
    b.graph.output((neg,))
    before = dict(neg.meta)
    assert run(b.graph).matched_count == 1
    assert neg.args == (x,) and neg.meta == before
    assert targets(b.graph) == [aten.neg.default]


def test_minus_one_counts_by_what_it_means() -> None:
    b = Builder()
    x = b.input(4, 8)
    neg = b.call(aten.neg.default, b.call(aten.reshape.default, x, [-1, 8]))
    b.graph.output((neg,))
    assert run(b.graph).matched_count == 1 and neg.args == (x,)


def test_a_reshape_to_another_shape_stays() -> None:
    b = Builder()
    view = b.call(aten.reshape.default, b.input(4, 8), [8, 4])
    b.graph.output((b.call(aten.neg.default, view),))
    assert run(b.graph).matched_count == 0
    assert aten.reshape.default in targets(b.graph)


def test_a_chain_becomes_one_reshape() -> None:
    b = Builder()
    x = b.input(2, 3, 4)
    node = x
    for shape in ([6, 4], [24], [3, 8], [12, 2]):
        node = b.call(aten.reshape.default, node, shape)
    neg = b.call(aten.neg.default, node)
    b.graph.output((neg,))
    noop = run(b.graph)
    assert noop.result is not None and (noop.result.removed, noop.result.shortened) == (0, 3)
    assert targets(b.graph) == [aten.reshape.default, aten.neg.default]
    assert node.args == (x, [12, 2])


def test_a_chain_back_to_its_start_goes_whole() -> None:
    b = Builder()
    x = b.input(2, 3, 4)
    there = b.call(aten.reshape.default, x, [6, 4])
    neg = b.call(aten.neg.default, b.call(aten.view.default, there, [2, 3, 4]))
    b.graph.output((neg,))
    run(b.graph)
    assert targets(b.graph) == [aten.neg.default] and neg.args == (x,)


def test_the_inside_of_a_chain_stays_where_someone_reads_it() -> None:
    b = Builder()
    x = b.input(2, 3, 4)
    flat = b.call(aten.reshape.default, x, [24])
    last = b.call(aten.reshape.default, flat, [6, 4])
    b.graph.output((b.call(aten.neg.default, flat), b.call(aten.neg.default, last)))
    assert run(b.graph).matched_count == 1
    assert last.args[0] is x and flat in b.graph.nodes


def test_a_chain_from_a_transposed_value_stays_because_its_first_reshape_copies() -> None:
    b = Builder()
    t = b.call(aten.t.default, b.input(4, 8))
    flat = b.call(aten.reshape.default, t, [32])
    back = b.call(aten.reshape.default, flat, [8, 4])
    b.graph.output((b.call(aten.neg.default, back),))
    assert back.meta["val"].stride() != t.meta["val"].stride()
    assert run(b.graph).matched_count == 0
    assert back.args[0] is flat


@pytest.mark.parametrize(
    ("args", "goes"),
    [
        ((0, 0, 4), True),
        ((0, 0, 2**63 - 1), True),
        ((1, 0, 8, 1), True),
        ((0, -4, 4), True),
        ((0, 1, 4), False),
        ((0, 0, 3), False),
        ((0, 0, 4, 2), False),
        ((1, 0, 4), False),
    ],
)
def test_slices(args: tuple[int, ...], goes: bool) -> None:
    b = Builder()
    x = b.input(4, 8)
    neg = b.call(aten.neg.default, b.call(aten.slice.Tensor, x, *args))
    b.graph.output((neg,))
    assert run(b.graph).matched_count == int(goes)
    assert (neg.args == (x,)) is goes


def scatter(
    make: Callable[[Builder, fx.Node, fx.Node], tuple[fx.Node, ...]],
    rows: int = 4,
    start: int = 0,
) -> tuple[Builder, NoOpEliminationPass, fx.Node, fx.Node]:
    b = Builder()
    base, x = b.input(4, 8), b.input(rows, 8)
    src = b.call(aten.neg.default, x)
    whole = b.call(aten.slice_scatter.default, base, src, 0, start, start + rows)
    b.graph.output(make(b, src, whole))
    return b, run(b.graph), src, whole


def test_a_slice_scatter_of_everything_goes() -> None:
    b, noop, src, _ = scatter(lambda b, src, whole: (b.call(aten.abs.default, whole),))
    assert noop.matched_count == 1
    assert targets(b.graph) == [aten.neg.default, aten.abs.default]


def test_a_slice_scatter_of_some_rows_stays() -> None:
    b, noop, *_ = scatter(lambda b, src, whole: (b.call(aten.abs.default, whole),), 2, 1)
    assert noop.matched_count == 0
    assert aten.slice_scatter.default in targets(b.graph)


def test_a_slice_scatter_stays_where_its_copy_is_written_to() -> None:
    def write(b: Builder, src: fx.Node, whole: fx.Node) -> tuple[fx.Node, ...]:
        b.call(aten.add_.Scalar, b.call(aten.view.default, whole, [32]), 1)
        return (b.call(aten.abs.default, src), b.call(aten.abs.default, whole))

    b, noop, *_ = scatter(write)
    assert aten.slice_scatter.default in targets(b.graph)


def test_a_slice_scatter_stays_where_two_outputs_would_become_one_tensor() -> None:
    b, noop, *_ = scatter(lambda b, src, whole: (src, whole))
    assert noop.matched_count == 0


def test_a_slice_scatter_into_another_dtype_stays() -> None:
    b = Builder()
    base, x = b.input(4, 8), b.input(4, 8)
    half = b.call(aten.to.dtype, x, torch.float16)
    whole = b.call(aten.slice_scatter.default, base, half, 0, 0, 4)
    b.graph.output((b.call(aten.neg.default, whole),))
    assert run(b.graph).matched_count == 0


def test_an_output_does_not_become_an_input() -> None:
    b = Builder()
    view = b.call(aten.reshape.default, b.input(4, 8), [4, 8])
    b.graph.output((view,))
    assert run(b.graph).matched_count == 0
    assert b.graph.output_node().args == ((view,),)


def test_a_node_without_a_value_stays() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    view = graph.call_function(aten.reshape.default, (x, [4, 8]))
    graph.output((graph.call_function(aten.neg.default, (view,)),))
    assert run(graph).matched_count == 0


def test_symbolic_shapes_are_compared_as_expressions_without_guards() -> None:
    b = Builder()
    x = b.input(16, 8, dynamic=(0,))
    tokens = b.size(x, 0)
    same = b.call(aten.reshape.default, x, [tokens, 8])
    doubled = b.graph.call_function(operator.mul, (tokens, 8))
    doubled.meta["val"] = tokens.meta["val"] * 8
    flat = b.call(aten.reshape.default, same, [doubled])
    back = b.call(aten.reshape.default, flat, [tokens, 8])
    neg = b.call(aten.neg.default, b.call(aten.slice.Tensor, back, 0, 0, tokens))
    b.graph.output((neg,))
    guards = list(b.env.guards)
    run(b.graph)
    assert neg.args == (x,)
    assert targets(b.graph) == [aten.neg.default]
    assert list(b.env.guards) == guards


def test_symbolic_shapes_that_only_happen_to_agree_stay() -> None:
    b = Builder()
    x = b.input(16, 8, dynamic=(0,))
    y = b.input(16, 8, dynamic=(0,))
    y.meta["val"] = b.mode.from_tensor(
        torch.empty(15, 8),
        symbolic_context=StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC]),
    )
    assert x.meta["val"].shape[0].node.expr != y.meta["val"].shape[0].node.expr
    tokens = b.size(y, 0)
    cut = b.graph.call_function(aten.slice.Tensor, (x, 0, 0, tokens))
    cut.meta["val"] = y.meta["val"]
    b.graph.output((b.graph.call_function(aten.neg.default, (cut,)),))
    guards = list(b.env.guards)
    assert run(b.graph).matched_count == 0
    assert list(b.env.guards) == guards


def test_values_stay_the_same() -> None:
    b = Builder()
    x = b.input(4, 8)
    a = b.call(aten.reshape.default, b.call(aten.reshape.default, x, [32]), [8, 4])
    s = b.call(aten.slice.Tensor, b.call(aten.view.default, a, [8, 4]), 0, 0, 8)
    w = b.call(aten.slice_scatter.default, a, b.call(aten.neg.default, s), 0, 0, 8)
    b.graph.output((b.call(aten.add.Tensor, w, a),))
    value = torch.randn(4, 8)
    expected = fx.GraphModule({}, b.graph)(value)
    assert run(b.graph).matched_count > 0
    assert torch.equal(fx.GraphModule({}, b.graph)(value)[0], expected[0])


def test_a_second_run_finds_nothing() -> None:
    b = Builder()
    x = b.input(4, 8)
    a = b.call(aten.reshape.default, b.call(aten.reshape.default, x, [32]), [8, 4])
    b.graph.output((b.call(aten.neg.default, a),))
    assert run(b.graph).matched_count == 1
    assert run(b.graph).matched_count == 0


def test_it_is_a_pass_that_inductor_takes() -> None:
    noop = NoOpEliminationPass()
    again = pickle.loads(pickle.dumps(noop))
    assert again.uuid() == noop.uuid() and noop.pass_name == "noop_elimination"
    model = torch.compile(
        lambda x: (x.reshape(-1)[: x.numel()].reshape(4, 8) + 1).sum(),
        backend="inductor",
        options={"post_grad_custom_pre_pass": noop},
    )
    x = torch.randn(4, 8)
    assert torch.allclose(model(x), (x + 1).sum())


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(GraphError, match="Tensor is not an fx.Graph"):
        NoOpEliminationPass()(torch.empty(1))  # type: ignore[arg-type]
