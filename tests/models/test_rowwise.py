"""What the row-wise recogniser shards, and what it must leave to all tokens."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

import spfast
from spfast import SequenceParallelConfig
from spfast.errors import PatternError
from spfast.patterns import RowRule, default_registry
from spfast.testing.builder import TOKENS as TOKEN_DIM
from spfast.testing.builder import GraphBuilder
from spfast.testing.gloo import run_ranks
from spfast.testing.lockstep import assert_equivalent, run_lockstep
from spfast.verifier import snapshot, verify

RANKS, TOKENS, WIDTH = 4, 8, 6
aten = torch.ops.aten
c10d: Any = torch.ops._c10d_functional
Body = Callable[[fx.Graph, fx.Node, fx.Node, fx.Node], fx.Node]


def make(body: Body, shape: tuple[int, ...] = (TOKENS, WIDTH)) -> fx.Graph:
    """x -> all_reduce -> wait -> body(graph, reduced, weight, full rows) -> output."""
    graph = fx.Graph()
    x, weight, rows = (graph.placeholder(name) for name in ("x", "weight", "rows"))
    mode = FakeTensorMode()
    with mode:
        x.meta["val"], rows.meta["val"] = torch.empty(shape), torch.empty(shape)
        weight.meta["val"] = torch.empty(WIDTH)
    started = graph.call_function(c10d.all_reduce.default, (x, "sum", "0"))
    reduced = graph.call_function(c10d.wait_tensor.default, (started,))
    graph.output((body(graph, reduced, weight, rows),))
    with mode:
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            args = fx.node.map_arg(node.args, lambda n: n.meta["val"])
            kwargs = fx.node.map_arg(node.kwargs, lambda n: n.meta["val"])
            is_collective = "c10d" in str(node.target)
            if is_collective:
                node.meta["val"] = torch.empty_like(args[0])
            else:
                node.meta["val"] = node.target(*args, **kwargs)
    return graph


def rewrite(body: Body, **options: Any) -> tuple[Any, list[fx.Graph], fx.Graph]:
    shape = options.pop("shape", (TOKENS, WIDTH))
    graphs = [make(body, shape) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, recognise="rowwise", **options)
        result = spfast.apply(graph, config)
        graph.lint()
    return result, graphs, make(body, shape)


def check_same(body: Body, shape: tuple[int, ...] = (TOKENS, WIDTH), **options: Any) -> fx.Graph:
    """Every rank's rewritten graph computes what it computed before, and is proved to."""
    result, graphs, original = rewrite(body, shape=shape, **options)
    assert int(result) == 1, result
    inputs = [
        [torch.randn(shape) for _ in range(1)] + shared
        for shared in [[torch.rand(WIDTH), torch.randn(shape)]] * RANKS
    ]
    before = run_lockstep([original] * RANKS, inputs)
    after = run_lockstep(graphs, inputs)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b[0], a[0])
    config = SequenceParallelConfig(tp_size=RANKS, tp_rank=RANKS - 1)
    assert verify(snapshot(original), graphs[-1], config)
    return graphs[-1]


def gathered_dtypes(graph: fx.Graph) -> list[torch.dtype]:
    target = c10d.all_gather_into_tensor.default
    return [
        n.args[0].meta["val"].dtype for n in graph.find_nodes(op="call_function", target=target)
    ]


def norm(graph: fx.Graph, x: fx.Node, dim: int = -1) -> fx.Node:
    square = graph.call_function(aten.pow.Tensor_Scalar, (x, 2))
    mean = graph.call_function(aten.mean.dim, (square, [dim], True))
    return graph.call_function(
        aten.mul.Tensor, (x, graph.call_function(aten.rsqrt.default, (mean,)))
    )


@pytest.mark.parametrize("shape", [(TOKENS, WIDTH), (1, TOKENS, WIDTH), (2, TOKENS, WIDTH)])
def test_norm_in_any_leading_dims(shape: tuple[int, ...]) -> None:
    """The dim counts from the front, and the shard has fewer dims."""

    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        scaled = g.call_function(aten.mul.Tensor, (norm(g, x, len(shape) - 1), weight))
        return g.call_function(aten.add.Tensor, (scaled, rows))

    check_same(body, shape)


def test_layer_norm_and_its_statistics() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        both = g.call_function(
            aten.var_mean.correction, (x, [1]), {"correction": 0, "keepdim": True}
        )

        variance = g.call_function(operator.getitem, (both, 0))
        mean = g.call_function(operator.getitem, (both, 1))
        centred = g.call_function(aten.sub.Tensor, (x, mean))
        return g.call_function(aten.mul.Tensor, (centred, variance))

    check_same(body)


def test_groups_of_features_are_views_of_a_shard() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        groups = g.call_function(aten.reshape.default, (x, [TOKENS, 2, WIDTH // 2]))
        scale = g.call_function(aten.amax.default, (groups, [-1], True))
        scaled = g.call_function(aten.div.Tensor, (groups, scale))
        return g.call_function(aten.reshape.default, (scaled, [TOKENS, WIDTH]))

    graph = check_same(body)
    assert len(gathered_dtypes(graph)) == 1


def test_per_token_quantisation_is_gathered_quantised() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        top = g.call_function(aten.amax.default, (x, [-1], True))
        quantised = g.call_function(
            torch.ops.prims.convert_element_type.default,
            (g.call_function(aten.div.Tensor, (x, top)), torch.int8),
        )
        return g.call_function(aten.t.default, (quantised,))

    assert gathered_dtypes(check_same(body)) == [torch.int8]


def through_float8(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
    """Quantised, read by what needs all tokens, and back."""
    cast = torch.ops.prims.convert_element_type.default
    low = g.call_function(cast, (x, torch.float8_e4m3fn))
    flipped = g.call_function(aten.t.default, (low,))
    return g.call_function(cast, (flipped, torch.float32))


def test_float8_as_bytes() -> None:
    _, graphs, _ = rewrite(through_float8)
    assert gathered_dtypes(graphs[0]) == [torch.float8_e4m3fn]
    result, graphs, original = rewrite(through_float8, gather_bytes=True)
    assert int(result) == 1
    assert gathered_dtypes(graphs[0]) == [torch.uint8]
    inputs = [[torch.randn(TOKENS, WIDTH), torch.ones(WIDTH), torch.ones(TOKENS, WIDTH)]] * RANKS
    before, after = run_lockstep([original] * RANKS, inputs), run_lockstep(graphs, inputs)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[0], b[0])


def test_quantisations_stay_outside_where_the_gather_shall_stand_before_them() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        return through_float8(g, norm(g, x), weight, rows)

    _, graphs, _ = rewrite(body)
    assert gathered_dtypes(graphs[0]) == [torch.float8_e4m3fn]
    assert gathered_dtypes(check_same(body, gather_quantized=False)) == [torch.float32]


def _gathered_on_gloo(rank: int, world_size: int) -> dict[bool | None, list[torch.dtype]]:
    """By `gather_bytes`: what is gathered; the graph runs where gloo can run it."""
    x = torch.arange(TOKENS * WIDTH).reshape(TOKENS, WIDTH) * (rank + 1.0)
    inputs = (x, torch.ones(WIDTH), torch.ones(TOKENS, WIDTH))
    seen = {}
    for gather_bytes in (None, True, False):
        graph, original = make(through_float8), make(through_float8)
        config = SequenceParallelConfig(
            recognise="rowwise", gather_bytes=gather_bytes, validate=True
        )
        assert int(spfast.apply(graph, config)) == 1
        seen[gather_bytes] = gathered_dtypes(graph)
        if gather_bytes is not False:
            before, after = (
                fx.Interpreter(fx.GraphModule(torch.nn.Module(), g)).run(*inputs)[0]
                for g in (original, graph)
            )
            assert torch.equal(before, after)
    return seen


def test_float8_is_gathered_as_bytes_where_the_backend_is_gloo() -> None:
    for seen in run_ranks(_gathered_on_gloo, 2):
        assert seen == {
            None: [torch.uint8],
            True: [torch.uint8],
            False: [torch.float8_e4m3fn],
        }


MIXING: dict[str, Callable[[fx.Graph, fx.Node], fx.Node]] = {
    "a maximum over all tokens": lambda g, x: g.call_function(aten.amax.default, (x,)),
    "a minimum over tokens": lambda g, x: g.call_function(aten.amin.default, (x, [0], True)),
    "cumsum over tokens": lambda g, x: g.call_function(aten.cumsum.default, (x, 0)),
    "cumsum over tokens, from the back": lambda g, x: g.call_function(aten.cumsum.default, (x, -2)),
    "softmax over tokens": lambda g, x: g.call_function(aten._softmax.default, (x, 0, False)),
    "one token": lambda g, x: g.call_function(operator.getitem, (x, 0)),
    "the last token": lambda g, x: g.call_function(operator.getitem, (x, -1)),
    "the first tokens": lambda g, x: g.call_function(operator.getitem, (x, slice(0, 2))),
    "a slice of tokens": lambda g, x: g.call_function(aten.slice.Tensor, (x, 0, 0, 4)),
    "a view that mixes tokens and features": lambda g, x: g.call_function(
        aten.reshape.default, (x, [TOKENS // 2, 3, WIDTH * 2 // 3])
    ),
    "a transpose": lambda g, x: g.call_function(aten.t.default, (x,)),
    "random numbers": lambda g, x: g.call_function(aten.rand_like.default, (x,)),
    "dropout": lambda g, x: g.call_function(aten.bernoulli.default, (x,)),
    "a matmul": lambda g, x: g.call_function(
        aten.mm.default, (x, g.call_function(aten.t.default, (x,)))
    ),
}


@pytest.mark.parametrize("what", MIXING)
def test_what_needs_all_tokens_gets_them(what: str) -> None:
    """Read at once, the all_reduce stays, and the reason names the reader."""
    result, graphs, original = rewrite(lambda g, x, weight, rows: MIXING[what](g, x))
    assert int(result) == 0
    assert [str(node) for node in graphs[0].nodes] == [str(node) for node in original.nodes]
    why = "mixes tokens and features" if what.startswith("a view") else "needs all tokens"
    assert why in result.skipped[0].reason


@pytest.mark.parametrize(
    "what", [name for name in MIXING if "random" not in name and name != "dropout"]
)
def test_what_needs_all_tokens_ends_the_region(what: str) -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        positive = g.call_function(aten.sigmoid.default, (x,))
        return MIXING[what](g, positive)

    graph = check_same(body)
    assert len(gathered_dtypes(graph)) == 1


def test_topk_over_features_but_not_over_tokens() -> None:

    def body(dim: int) -> Body:
        def inner(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
            both = g.call_function(aten.topk.default, (x, 2, dim))
            return g.call_function(operator.getitem, (both, 0))

        return inner

    assert int(rewrite(body(-1))[0]) == 1
    assert int(rewrite(body(0))[0]) == 0


def test_the_cut_gathers_what_is_smallest() -> None:
    """Two readers of two norms of one value: one gather of the value is less than two."""

    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        base = g.call_function(aten.add.Tensor, (x, rows))
        first = g.call_function(aten.t.default, (g.call_function(aten.sin.default, (base,)),))
        second = g.call_function(aten.t.default, (g.call_function(aten.cos.default, (base,)),))
        return g.call_function(aten.add.Tensor, (first, second))

    assert len(gathered_dtypes(check_same(body))) == 1


def test_custom_operator() -> None:
    """Unknown, it needs all tokens; registered, it does not."""
    library = torch.library.Library("spfast_rowwise_test", "FRAGMENT")
    library.define("double(Tensor x, Tensor weight) -> Tensor")
    library.impl("double", lambda x, weight: 2 * x * weight, "CompositeExplicitAutograd")
    target = torch.ops.spfast_rowwise_test.double.default

    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        return g.call_function(target, (x, weight))

    assert int(rewrite(body)[0]) == 0
    with default_registry().temporary() as registry:
        registry.register_rowwise(RowRule("spfast_rowwise_test.double.default", "rows", rows=(0,)))
        assert int(rewrite(body)[0]) == 1
        # Said the other way round, its weight would have rows: it has not.
        wrong = RowRule("spfast_rowwise_test.double.default", "rows", rows=(1,))
        registry.register_rowwise(wrong, replace=True)
        assert int(rewrite(body)[0]) == 0
    assert int(rewrite(body)[0]) == 0


def test_rules_that_say_nothing_are_refused() -> None:
    with default_registry().temporary() as registry:
        with pytest.raises(PatternError, match="name the operands that have rows"):
            registry.register_rowwise(RowRule("mylib.op.default", "rows"))
        with pytest.raises(PatternError, match="'aten.add.Tensor' has a row-wise rule already"):
            registry.register_rowwise(RowRule("aten.add.Tensor", "norm"))


def test_tokens_that_are_not_divisible_stay() -> None:
    result, _, _ = rewrite(lambda g, x, weight, rows: norm(g, x), shape=(TOKENS + 1, WIDTH))
    assert int(result) == 0
    assert result.skipped[0].reason == "9 tokens are not divisible by tp_size 4"


def give_values(graph: fx.Graph) -> None:
    """Every value is of the stream's shape, on a storage of its own."""
    with FakeTensorMode():
        for node in graph.nodes:
            node.meta["val"] = torch.empty(TOKENS, WIDTH)


def test_a_sum_of_two_groups_is_sharded_in_the_one_where_it_is_worth_it() -> None:
    """The first operand is needed in full anyway, so that its group gains nothing from the sum."""

    def two_groups() -> fx.Graph:
        graph = fx.Graph()
        x, y = graph.placeholder("x"), graph.placeholder("y")
        reduced = []
        for value, group in ((x, "0"), (y, "1")):
            started = graph.call_function(c10d.all_reduce.default, (value, "sum", group))
            reduced.append(graph.call_function(c10d.wait_tensor.default, (started,)))
        first = graph.call_function(aten.cumsum.default, (reduced[0], 0))
        added = graph.call_function(aten.add.Tensor, tuple(reduced))
        graph.output((first, graph.call_function(aten.tanh.default, (added,))))
        give_values(graph)
        return graph

    graphs = [two_groups() for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = SequenceParallelConfig(groups=dict.fromkeys(("0", "1"), (RANKS, rank)))
        result = spfast.apply(graph, config)
        assert [site.node for site in result.skipped] == ["all_reduce_default"]
        text = str(graph)
        assert int(spfast.apply(graph, config)) == 0
        assert str(graph) == text
        assert verify(two_groups(), graph, config)
    inputs = [[torch.randn(TOKENS, WIDTH) for _ in range(2)] for _ in range(RANKS)]
    groups = {"0": range(RANKS), "1": range(RANKS)}
    before = run_lockstep([two_groups()] * RANKS, inputs, groups)
    after = run_lockstep(graphs, inputs, groups)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a)


def test_groups_that_take_turns_in_a_chain_of_sums() -> None:
    """However long: what one run leaves, the next leaves too."""
    graph = fx.Graph()
    total = graph.placeholder("x")
    for turn in range(40):
        value = graph.call_function(aten.relu.default, (total,))
        started = graph.call_function(c10d.all_reduce.default, (value, "sum", str(turn % 2)))
        reduced = graph.call_function(c10d.wait_tensor.default, (started,))
        total = graph.call_function(aten.add.Tensor, (total, reduced))
    graph.output((total,))
    give_values(graph)
    config = SequenceParallelConfig(groups={"0": (RANKS, 1), "1": (RANKS, 1)})
    spfast.apply(graph, config)
    text = str(graph)
    assert int(spfast.apply(graph, config)) == 0
    assert str(graph) == text


def test_a_residual_is_found_behind_names_that_only_the_row_wise_view_knows() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        positive = g.call_function(aten.relu.default, (x,))
        wide = g.call_function(aten.unsqueeze.default, (positive, 0))
        residual = g.call_function(aten.squeeze.dim, (wide, 0))
        started = g.call_function(c10d.all_reduce.default, (rows, "sum", "0"))
        reduced = g.call_function(c10d.wait_tensor.default, (started,))
        added = g.call_function(aten.add.Tensor, (reduced, residual))
        normed = g.call_function(aten._fused_rms_norm.default, (added, [WIDTH], weight, 1e-6))
        return g.call_function(operator.getitem, (normed, 0))

    graph = make(body)
    before = snapshot(graph)
    config = SequenceParallelConfig(tp_size=RANKS, tp_rank=1)
    result = spfast.apply(graph, config)
    assert result.by_pattern == {"middle_all_reduce_rms_norm": 1, "rowwise": 1}
    assert verify(before, graph, config)
    assert len(gathered_dtypes(graph)) == 1


def test_symbolic_tokens_before_the_first_shard() -> None:
    """Nothing tells a rank's number of rows yet: what is row-wise there stays full."""

    def build() -> GraphBuilder:
        g = GraphBuilder(tokens=TOKENS, dynamic=True)

        def reduced(name: str) -> fx.Node:
            value = g.placeholder(name, (TOKEN_DIM, WIDTH), torch.float32, "per_rank")
            started = g.call(c10d.all_reduce.default, value, "sum", "0")
            return g.call(c10d.wait_tensor.default, started)

        wide = g.call(aten.cat.default, [reduced("x")] * 4, -1)
        mean = g.call(aten.mean.dim, wide, [-1], True)
        added = g.call(aten.add.Tensor, mean, reduced("y"))
        g.output((wide, g.call(aten.sigmoid.default, added)))
        return g

    def rewrite(graph: fx.Graph, rank: int) -> spfast.Result:
        return spfast.apply(graph, SequenceParallelConfig(tp_size=RANKS, tp_rank=rank))

    built = build()
    inputs = [[one.make(rank, TOKENS, seed=0) for one in built.inputs] for rank in range(RANKS)]
    results = assert_equivalent(built.graph, rewrite, inputs, RANKS)
    assert [int(result) for result in results] == [1] * RANKS
    assert "would move more bytes" in results[0].skipped[0].reason
