"""Dims, strides and formats: a gathered value is what the full one was, or the region ends."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from support.shape_graphs import ShapeGraph, rewritten, targets
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import spfast

aten = torch.ops.aten
CLONE, GATHER = "aten.clone.default", "_c10d_functional.all_gather_into_tensor.default"


def norm(g: ShapeGraph, x: fx.Node, weight: fx.Node) -> fx.Node:
    square = g.call(aten.pow.Tensor_Scalar, x, 2)
    root = g.call(
        aten.rsqrt.default, g.call(aten.add.Tensor, g.call(aten.mean.dim, square, [-1], True), 1e-6)
    )
    return g.call(aten.mul.Tensor, g.call(aten.mul.Tensor, x, root), weight)


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("order", ["bs", "sb"])
@pytest.mark.parametrize("residual", [False, True])
def test_two_symbolic_dims_of_a_flat_stream(order: str, residual: bool, recognise: Any) -> None:
    """An MoE block flattens its tokens: what is gathered has dims that its all_reduce has not."""

    def build() -> ShapeGraph:
        g = ShapeGraph(**dict.fromkeys(order, 4))
        x, matrix = g.full("x", "b", "s", 8), g.partial("matrix", 8, 8)
        b, s = g.size("b"), g.size("s")
        weight = g.full("weight", 8)
        flat = g.call(aten.view.default, x, [g.call(operator.mul, b, s), 8])
        reduced = g.reduce(g.call(aten.mm.default, flat, matrix))
        value = g.call(aten.view.default, reduced, [b, s, 8])
        if residual:
            value = g.call(aten.add.Tensor, x, value)
        return g.done(norm(g, value, weight))

    sizes = ({}, {"b": 2, "s": 6}, {"b": 3, "s": 2})
    graph, _ = rewritten(build, 1, sizes=sizes, recognise=recognise)
    assert GATHER in targets(graph)


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("both", [False, True])
def test_a_symbolic_width(order: tuple[int, ...], both: bool, recognise: Any) -> None:
    """As torch.compile(dynamic=True) makes of tensors that no parameter gives a width."""

    def build() -> ShapeGraph:
        g = ShapeGraph(t=6, h=8)
        x, weight = g.partial("x", "t", "h", order=order), g.full("weight", "h")
        residual, matrix = g.full("residual", "t", "h", order=order), g.full("matrix", "h", 4)
        total = g.call(aten.add.Tensor, residual, g.reduce(x))
        values = [norm(g, total, weight), *([total] if both else [])]
        return g.done(*(g.call(aten.mm.default, value, matrix) for value in values))

    sizes = ({}, {"t": 4, "h": 12}, {"t": 12, "h": 4}, {"t": 8, "h": 8})
    # To gather both costs more, and the sum alone is gathered only where it lies as if fresh.
    stays = both and order == (1, 0) and recognise != "patterns"
    graph, _ = rewritten(build, 0 if stays else 1, sizes=sizes, recognise=recognise)
    assert stays or GATHER in targets(graph)


def test_no_size_is_made_of_a_symbolic_width() -> None:
    """What would need one stays full: a view of several dims, an expansion, a 3D stream."""

    def build() -> ShapeGraph:
        g = ShapeGraph(t=6, h=8)
        h = g.size("h")
        y = g.call(aten.tanh.default, g.reduce(g.partial("x", "t", "h")))
        split = g.call(aten.view.default, y, [g.size("t"), 2, g.call(operator.floordiv, h, 2)])
        one = g.call(aten.mean.dim, y, [-1], True)
        wide = g.call(aten.expand.default, one, [-1, h])
        three = g.reduce(g.partial("z", 2, "t", "h"))
        return g.done(
            g.call(aten.sum.dim_IntList, split, [0]),
            g.call(aten.cumsum.default, wide, 0),
            g.call(aten.relu.default, three),
        )

    rewritten(build, 1, sizes=({}, {"t": 4, "h": 12}))


def test_sizes_come_from_the_value_and_not_from_another_all_reduce() -> None:
    """A 3D all_reduce that stays, of other dims, and a 2D one that does not."""

    def build() -> ShapeGraph:
        g = ShapeGraph(b=2, s=4)
        other, flat = g.partial("other", "s", "b", 8), g.partial("flat", "b", "s", 8)
        b, s = g.size("b"), g.size("s")
        stays = g.call(aten.cumsum.default, g.reduce(other), 1)
        view = g.call(aten.view.default, flat, [g.call(operator.mul, b, s), 8])
        reduced = g.call(aten.view.default, g.call(aten.relu.default, g.reduce(view)), [b, s, 8])
        return g.done(stays, g.call(aten.cumsum.default, g.call(aten.tanh.default, reduced), 1))

    rewritten(build, 1, sizes=({}, {"b": 4, "s": 6}, {"b": 3, "s": 2}))


def test_dims_that_nothing_tells_end_the_region() -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph(t=8)
        x = g.partial("x", "t", 2, 8)
        n = g.call(operator.floordiv, g.size("t"), 2)
        reduced = g.call(aten.relu.default, g.reduce(x))
        return g.done(g.call(aten.cumsum.default, reduced, 0), n)

    rewritten(build, 1, sizes=({}, {"t": 4}))


def test_a_size_of_zero_is_no_size_that_is_left_over() -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        y = g.call(aten.relu.default, g.reduce(g.partial("x", 2, 4, 6)))
        none = g.call(aten.slice.Tensor, y, 2, 0, 0)
        joined = g.call(aten.cat.default, [none, y], 2)
        return g.done(g.call(aten.cumsum.default, joined, 0), g.call(aten.cumsum.default, none, 0))

    rewritten(build, 1)


READERS: dict[str, Any] = {
    "as_strided": lambda g, v: g.call(aten.as_strided.default, v, [4, 2], [4, 1], 0),
    "as_strided_scatter": lambda g, v: g.call(
        aten.as_strided_scatter.default, v, g.full("source", 4, 2), [4, 2], [2, 1], 0
    ),
    "as_strided_copy": lambda g, v: g.call(aten.as_strided_copy.default, v, [3, 2], [4, 1], 1),
    "sym_stride": lambda g, v: g.call(aten.sym_stride.int, v, 0),
    "sym_storage_offset": lambda g, v: g.call(aten.sym_storage_offset.default, v),
    "t": lambda g, v: g.call(aten.t.default, v),
    "view_as_complex": lambda g, v: g.call(aten.view_as_complex.default, v),
    "output": lambda g, v: v,
}


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_readers_of_memory_see_what_they_saw(reader: str, strided: bool) -> None:
    """Of columns of a stream, they need the stream in full; of the stream, it is as it was."""

    def build() -> ShapeGraph:
        g = ShapeGraph()
        width = 4 if strided else 2
        y = g.call(aten.relu.default, g.reduce(g.partial("x", 8, width)))
        if strided:
            y = g.call(aten.slice.Tensor, y, 1, 0, 2)
        return g.done(READERS[reader](g, y))

    graph, _ = rewritten(build, int(result_of(build)) if strided else 1)
    if strided:  # nothing narrower than the stream is gathered
        assert all(
            node.meta["val"].shape[-1] == 4 for node in graph.nodes if str(node.target) == GATHER
        )


def result_of(build: Any) -> spfast.Result:
    return spfast.apply(build().graph, spfast.SequenceParallelConfig(tp_size=2, tp_rank=0))


def test_columns_are_gathered_for_a_product() -> None:
    """Its result lies as it always does; what is sent is made contiguous first."""

    def build() -> ShapeGraph:
        g = ShapeGraph()
        x, matrix = g.partial("x", 8, 16), g.full("matrix", 2, 4)
        y = g.call(aten.relu.default, g.reduce(x))
        columns = g.call(aten.slice.Tensor, y, 1, 2, 4)
        return g.done(g.call(aten.mm.default, columns, matrix))

    graph, _ = rewritten(build, 1)
    (gather,) = [node for node in graph.nodes if str(node.target) == GATHER]
    assert str(gather.args[0].target) == CLONE
    assert gather.args[0].kwargs == {"memory_format": torch.contiguous_format}
    assert gather.meta["val"].stride() == (2, 1)


def test_what_is_scattered_is_made_contiguous() -> None:
    """A collective takes memory as it lies: the transposed would be cut into columns."""

    def build() -> ShapeGraph:
        g = ShapeGraph()
        x = g.partial("x", 8, 4, order=(1, 0))
        return g.done(g.call(aten.amax.default, g.call(aten.relu.default, g.reduce(x)), [-1]))

    graph, _ = rewritten(build, 1)
    (scatter,) = [node for node in graph.nodes if "reduce_scatter" in str(node.target)]
    assert str(scatter.args[0].target) == CLONE and scatter.args[0].meta["val"].is_contiguous()


def test_a_residual_with_its_memory_in_another_order() -> None:
    """What vision models add their first block to: [b, n, c] over memory [b, c, n]."""

    def build() -> ShapeGraph:
        g = ShapeGraph()
        x, weight = g.partial("x", 2, 4, 8), g.full("weight", 8)
        residual = g.full("residual", 2, 4, 8, order=(0, 2, 1))
        return g.done(norm(g, g.call(aten.add.Tensor, g.reduce(x), residual), weight))

    rewritten(build, 1)


@pytest.mark.parametrize("kind", ["_to_copy", "full_like", "clone"])
def test_a_memory_format_for_four_dims_ends_the_region(kind: str) -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        a, form = g.reduce(g.partial("p", 2, 4, 3, 5)), {"memory_format": torch.channels_last}
        if kind == "_to_copy":
            y = g.call(aten._to_copy.default, a, dtype=torch.float64, **form)
        elif kind == "full_like":
            y = g.call(aten.add.Tensor, a, g.call(aten.full_like.default, a, 2.0, **form))
        else:
            y = g.call(aten.relu.default, g.call(aten.clone.default, a, **form))
        return g.done(g.call(aten.amax.default, y, [-1]))

    _, result = rewritten(build, 0)
    if kind != "full_like":
        assert result.skipped[0].reason == (
            f"%{kind}_default = aten.{kind}.default asks for a memory format for more dims than "
            "a shard has"
        )


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.preserve_format])
def test_formats_that_any_number_of_dims_has_are_kept(form: torch.memory_format) -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        a = g.reduce(g.partial("p", 2, 4, 3, 5))
        y = g.call(aten._to_copy.default, a, dtype=torch.float64, memory_format=form)
        return g.done(g.call(aten.amax.default, y, [-1]))

    rewritten(build, 1)


@pytest.mark.parametrize("lead", [(8,), (2, 4)])
@pytest.mark.parametrize("kind", ["slice", "select", "split", "expand"])
def test_views_with_strides_of_their_own(kind: str, lead: tuple[int, ...]) -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        y = g.call(aten.relu.default, g.reduce(g.partial("p", *lead, 12)))
        if kind == "slice":
            v = g.call(aten.slice.Tensor, y, -1, 4, 8)
        elif kind == "select":
            v = g.call(aten.select.int, g.call(aten.view.default, y, [*lead, 3, 4]), -1, 1)
        elif kind == "split":
            v = g.call(operator.getitem, g.call(aten.split.Tensor, y, 4, -1), 1)
        else:
            top = g.call(aten.amax.default, y, [-1], True)
            v = g.call(aten.expand.default, top, [*lead, 4])
        return g.done(v, g.call(aten.cumsum.default, g.call(aten.tanh.default, v), 0))

    rewritten(build, int(result_of(build)))


@pytest.mark.parametrize("lead", [(8,), (2, 4), (4, 1), (2, 1, 2)])
def test_what_is_reduced_may_be_columns_of_a_wider_value(lead: tuple[int, ...]) -> None:
    """Its flattened rows lie as far apart as its own, be the last dim of them 1."""

    def build() -> ShapeGraph:
        g = ShapeGraph()
        columns = g.call(aten.slice.Tensor, g.partial("p", *lead, 6), -1, 0, 4)
        return g.done(norm(g, g.reduce(columns), g.full("weight", 4)))

    graph, _ = rewritten(build, 1)
    flat = [node for node in graph.nodes if node.target is aten.reshape.default]
    if len(lead) > 1:
        assert flat[0].meta["val"].stride() == (6, 1)


# --- gates ----------------------------------------------------------------------------------------


def gated(batch: int, gate: tuple[int, ...], symbolic: bool = False) -> Any:
    def build() -> ShapeGraph:
        g = ShapeGraph(**({"s": 8} if symbolic else {}))
        s: Any = "s" if symbolic else 8
        x, residual = g.partial("x", batch, s, 4), g.full("residual", batch, s, 4)
        scale, weight = g.full("scale", *gate), g.full("weight", 4)
        y = g.call(aten.add.Tensor, residual, g.call(aten.mul.Tensor, g.reduce(x), scale))
        return g.done(norm(g, y, weight))

    return build


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("gate", [(4,), (1, 4), (1, 1, 4), (1, 1, 1)])
def test_a_gate_that_is_the_same_for_all(gate: tuple[int, ...], batch: int, symbolic: bool) -> None:
    rewritten(gated(batch, gate, symbolic), 1, ranks=4)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("batch", "ranks"), [(2, 2), (2, 4), (4, 2), (3, 2), (6, 4)])
def test_a_gate_a_sample(batch: int, ranks: int, symbolic: bool) -> None:
    """All of a rank's tokens are of one sample, or the gate is spread over the tokens and cut."""
    graph, _ = rewritten(gated(batch, (batch, 1, 4), symbolic), 1, ranks=ranks, validate=True)
    assert ("aten.expand.default" in targets(graph)) == (ranks % batch != 0)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("gate", [(8, 1), (1, 8, 1), (8, 4), (1, 8, 4)])
def test_a_gate_a_position(gate: tuple[int, ...], batch: int, ranks: int) -> None:
    rewritten(gated(batch, gate), 1, ranks=ranks, validate=True)


@pytest.mark.parametrize("gate", [(8, 1), (8, 4)])
def test_the_gate_of_another_position_is_not_proved(gate: tuple[int, ...]) -> None:
    graph = gated(2, gate)().graph
    before = spfast.snapshot(graph)
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1)
    spfast.apply(graph, config)
    assert spfast.verify(before, graph, config).ok
    (spread,) = graph.find_nodes(op="call_function", target=aten.expand.default)
    cut = next(iter(next(iter(spread.users)).users))
    assert cut.target is aten.slice.Tensor and cut.args[2:] == (4, 8)
    cut.args = (cut.args[0], 0, 0, 4)
    assert not spfast.verify(before, graph, config).ok


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("rank", range(4))
def test_the_gate_of_another_sample_is_not_proved(rank: int, width: int) -> None:
    graph = gated(2, (2, 1, width))().graph
    before = spfast.snapshot(graph)
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=rank)
    spfast.apply(graph, config)
    assert spfast.verify(before, graph, config).ok
    scale = next(node for node in graph.nodes if node.name == "scale")
    cut = next(iter(scale.users))
    assert cut.args[2:] == (rank // 2, rank // 2 + 1)
    cut.args = (scale, 0, 1 - rank // 2, 2 - rank // 2)
    found = spfast.verify(before, graph, config)
    assert [each.reason for each in found.problems] == [
        "reads 'reshape_1', which holds nothing that the original graph has, where it read 'scale'"
    ]


@pytest.mark.parametrize("recognise", ["both", "rowwise"])
def test_a_positional_embedding_of_several_samples(recognise: Any) -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        x, place = g.partial("x", 2, 4, 8), g.full("place", 1, 4, 8)
        weight = g.full("weight", 8)
        return g.done(norm(g, g.call(aten.add.Tensor, g.reduce(x), place), weight))

    rewritten(build, 1, recognise=recognise)


def test_a_weight_with_leading_ones_in_a_pattern() -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        x, weight = g.partial("x", 8, 4), g.full("weight", 1, 1, 4)
        return g.done(norm(g, g.reduce(x), weight))

    rewritten(build, 1, recognise="patterns")


def test_a_true_reason_for_what_broadcasts_otherwise() -> None:
    def build() -> ShapeGraph:
        g = ShapeGraph()
        x, rows = g.partial("x", 8, 4), g.full("rows", 3, 8, 4)
        return g.done(g.call(aten.mul.Tensor, g.reduce(x), rows))

    _, result = rewritten(build, 0)
    assert result.skipped[0].reason == (
        "operand %rows has shape [3, 8, 4] and is not the same for every token"
    )


def test_reading_a_graph_guards_on_no_stride() -> None:
    """Rows of a wider value: numbers for sizes, a symbol for a stride."""
    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env)
    sizes = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.STATIC, DimDynamic.DYNAMIC])
    wide = mode.from_tensor(torch.empty(4, 16), symbolic_context=sizes)
    graph = fx.Graph()
    node = graph.placeholder("wide")
    node.meta["val"] = wide
    for target, rest in [
        (torch.ops.aten.slice.Tensor, (1, 0, 8)),
        (torch.ops._c10d_functional.all_reduce.default, ("sum", "0")),
    ]:
        node = graph.call_function(target, (node, *rest))
        node.meta["val"] = wide[:, :8]
    graph.output(node)
    before = len(env.guards)
    spfast.explain(graph, spfast.SequenceParallelConfig(tp_size=2, tp_rank=0))
    assert len(env.guards) == before
