"""What the row-wise recogniser shards, and what it must leave to all tokens."""

from __future__ import annotations

import operator
from collections.abc import Callable

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
from spfast.testing.lockstep import assert_equivalent, run_lockstep
from spfast.verifier import snapshot, verify

from .rowwise_graphs import (
    RANKS,
    TOKENS,
    WIDTH,
    Body,
    aten,
    c10d,
    check_same,
    gathered_dtypes,
    make,
    norm,
    rewrite,
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
