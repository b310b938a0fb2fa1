"""What meets one rank's rows is the same on every rank: by proof, or on trust (which is listed)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.testing import assert_same, clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

aten, c10d = torch.ops.aten, torch.ops._c10d_functional
WORLD, WIDTH = 4, 16
F32 = torch.float32
Build = Callable[["Writer"], None]


class Writer(GraphBuilder):
    """Writes graphs of one dialect in few words."""

    def __init__(self) -> None:
        super().__init__(tokens=8, dynamic=False)

    def stream(self, name: str, kind: str = "replicated") -> fx.Node:
        return self.placeholder(name, (TOKENS, WIDTH), F32, kind=kind)

    def over_ranks(self, x: fx.Node, op: str = "sum", group: str = "0") -> fx.Node:
        return self.call(c10d.wait_tensor.default, self.call(c10d.all_reduce.default, x, op, group))

    def norm(self, x: fx.Node) -> fx.Node:
        mean = self.call(aten.mean.dim, self.call(aten.mul.Tensor, x, x), [-1], True)
        return self.call(aten.mul.Tensor, x, self.call(aten.rsqrt.default, mean))

    def matched_norm(self, x: fx.Node) -> fx.Node:
        """One that a rule knows."""
        mean = self.call(aten.mean.dim, self.call(aten.mul.Tensor, x, x), [-1], True)
        root = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, mean, 1e-6))
        return self.call(aten.mul.Tensor, x, root)

    def project(self, x: fx.Node, name: str, width: int = WIDTH) -> fx.Node:
        shape = (int(x.meta["val"].shape[-1]), width)
        return self.call(
            aten.mm.default, x, self.placeholder(name, shape, F32, kind="per_rank", value=0.3)
        )


def on_every_rank(
    build: Build, **fields: object
) -> tuple[list[fx.Graph], list[spfast.Result], fx.Graph]:
    writer = Writer()
    build(writer)
    inputs = [
        [spec.make(rank, tokens=8, seed=0) for spec in writer.inputs] for rank in range(WORLD)
    ]
    expected = run_lockstep([writer.graph] * WORLD, [clone_inputs(each) for each in inputs])
    graphs, results = [], []
    for rank in range(WORLD):
        graph = copy_graph(writer.graph)
        config = SequenceParallelConfig(tp_size=WORLD, tp_rank=rank, validate=True, **fields)
        results.append(spfast.apply(graph, config))
        graphs.append(graph)
    for rank, (got, want) in enumerate(zip(run_lockstep(graphs, inputs), expected, strict=True)):
        assert_same(got, want, 1e-5, f"rank {rank}")
    return graphs, results, writer.graph


def collectives(graph: fx.Graph) -> list[str]:
    return [
        node.target.__name__.split(".")[0]
        for node in graph.nodes
        if "c10d" in str(node.target) and "wait" not in str(node.target)
    ]


def log_sum_exp(w: Writer) -> None:
    logits = w.project(w.stream("hidden"), "head", 12)
    top = w.over_ranks(w.call(aten.amax.default, logits, [-1], True), "max")
    e = w.call(aten.exp.default, w.call(aten.sub.Tensor, logits, top))
    total = w.over_ranks(w.call(aten.sum.dim_IntList, e, [-1], True))
    w.output([w.call(aten.add.Tensor, w.call(aten.log.default, total), top)])


def share_of_the_residual_in_the_partial_sum(w: Writer) -> None:
    stream = w.over_ranks(w.stream("attention", "per_rank"))
    partial = w.project(w.norm(stream), "down")
    share = w.call(aten.div.Tensor, stream, WORLD)
    stream = w.over_ranks(w.call(aten.add.Tensor, share, partial))
    w.output([w.norm(stream)])


def product_that_is_summed(w: Writer) -> None:
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    own = w.stream("own", "per_rank")
    product = w.call(aten.mul.Tensor, w.call(aten.tanh.default, reduced), own)
    w.output([w.norm(w.over_ranks(product))])


def received_from_the_others(w: Writer) -> None:
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    sent = w.call(c10d.all_to_all_single.default, w.stream("kept"), [2] * WORLD, [2] * WORLD, "0")
    received = w.call(c10d.wait_tensor.default, sent)
    w.output([w.norm(w.call(aten.add.Tensor, reduced, received))])


def written_to_before_it_is_read(w: Writer) -> None:
    residual = w.stream("residual")
    w.call(aten.add_.Tensor, residual, w.stream("own", "per_rank"))
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    w.output([w.matched_norm(w.call(aten.add.Tensor, reduced, residual))])


def written_to_after_it_was_reduced(w: Writer) -> None:
    part = w.project(w.stream("x"), "first")
    residual = w.call(c10d.all_reduce_.default, part, "sum", "0")
    w.call(aten.add_.Tensor, part, w.stream("own", "per_rank"))
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    w.output([w.matched_norm(w.call(aten.add.Tensor, reduced, residual))])


def own_value_in_one_of_two_sums(w: Writer) -> None:
    """Of the sum of both, the product alone would be taken for one rank's part."""
    stream = w.over_ranks(w.stream("partial", "per_rank"))
    mixed = w.over_ranks(w.call(aten.add.Tensor, stream, w.stream("own", "per_rank")))
    product = w.over_ranks(w.project(w.stream("x"), "second"))
    w.output([w.call(aten.add.Tensor, mixed, product)])


def computed_from_what_is_refuted(w: Writer) -> None:
    """Only that all of it were the same shows that a value is not: what was made of it goes too."""
    own = w.stream("own", "per_rank")
    stream = w.call(aten.add.Tensor, w.over_ranks(w.stream("partial", "per_rank")), own)
    gain = w.placeholder("gain", (WIDTH,), F32, kind="gain")
    scaled = w.call(aten.mul.Tensor, stream, gain)
    total = w.over_ranks(w.call(aten.logaddexp.default, own, scaled))
    second = w.call(aten.add.Tensor, w.over_ranks(w.stream("other", "per_rank")), stream)
    w.output([total, second])


def outside(w: Writer) -> fx.Node:
    """Which tokens are outside this rank's part of the vocabulary: [tokens, 1] of bool."""
    first = w.placeholder("first", (1,), F32, kind="per_rank")
    ids = w.call(aten.amax.default, w.stream("ids"), [-1], True)
    below = w.call(aten.lt.Tensor, ids, first)
    above = w.call(aten.ge.Tensor, ids, w.call(aten.add.Tensor, first, 1.0))
    return w.call(aten.bitwise_or.Tensor, below, above)


def rows_of_a_vocabulary(w: Writer) -> None:
    """An embedding of which each rank has some rows, and the mask again in the backward."""
    mask = outside(w)
    found = w.project(w.stream("ids"), "table")
    stream = w.over_ranks(w.call(aten.masked_fill.Scalar, found, mask, 0.0))
    w.output([w.call(aten.where.ScalarSelf, mask, 0.0, w.norm(stream))])


def tokens_of_an_expert(w: Writer) -> None:
    """The mask is a factor, before and after."""
    stream = w.over_ranks(w.stream("partial", "per_rank"))
    inside = w.call(aten.logical_not.default, outside(w))
    mask = w.call(torch.ops.prims.convert_element_type.default, inside, F32)
    taken = w.call(aten.mul.Tensor, w.norm(stream), mask)
    made = w.call(aten.mul.Tensor, w.project(taken, "expert"), mask)
    w.output([w.norm(w.call(aten.add.Tensor, stream, w.over_ranks(made)))])


def covariance(w: Writer, of_own: bool = True) -> None:
    """A value times itself, summed before the site that would cut it."""
    own = w.stream("own", "per_rank" if of_own else "replicated")
    other = own if of_own else w.stream("other", "per_rank")
    summed = w.over_ranks(w.call(aten.mm.default, w.call(aten.t.default, own), other))
    total = w.call(aten.add.Tensor, w.over_ranks(w.stream("partial", "per_rank")), own)
    w.output([summed, w.matched_norm(total)])


def covariances_of_samples(w: Writer) -> None:
    own = w.stream("own", "per_rank")
    heads = w.call(aten.view.default, own, [2, 4, WIDTH])
    turned = w.call(aten.transpose.int, heads, 1, 2)
    summed = w.over_ranks(w.call(aten.bmm.default, turned, heads))
    total = w.call(aten.add.Tensor, w.over_ranks(w.stream("partial", "per_rank")), own)
    w.output([summed, w.matched_norm(total)])


def number_of_a_rank(w: Writer) -> None:
    """Read out of a tensor that is summed over the ranks besides."""
    own = w.call(aten.argmax.default, w.stream("own", "per_rank"))
    number = w.call(aten._local_scalar_dense.default, own)
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    scaled = w.call(aten.mul.Tensor, w.norm(reduced), number)
    w.output([w.call(aten.tanh.default, scaled), w.over_ranks(own)])


def number_of_all(w: Writer) -> None:
    number = w.call(
        aten._local_scalar_dense.default, w.placeholder("n", (), torch.int64, "constant", 3)
    )
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    w.output([w.call(aten.tanh.default, w.call(aten.mul.Tensor, w.norm(reduced), number))])


def test_a_number_may_meet_rows_if_all_ranks_have_it() -> None:
    name = "_local_scalar_dense_default"

    def meets_rows(build: Build, **fields: object) -> bool:
        graphs, _, _ = on_every_rank(build, **fields)
        (number,) = (node for node in graphs[0].nodes if node.name == name)
        (product,) = number.users
        return int(product.meta["val"].shape[0]) == 8 // WORLD

    assert not meets_rows(number_of_a_rank)
    assert meets_rows(number_of_all) and meets_rows(number_of_all, replicated=("n",))
    assert not meets_rows(number_of_all, replicated="prove")
    _, (result, *_), _ = on_every_rank(number_of_all)
    assert [each.value for each in result.assumptions] == [name]


def test_what_is_multiplied_by_another_may_be_the_same_on_every_rank() -> None:
    _, results, _ = on_every_rank(lambda w: covariance(w, of_own=False))
    assert [each.value for each in results[0].assumptions] == ["own"]


@pytest.mark.parametrize("recognise", ["both", "patterns", "rowwise"])
@pytest.mark.parametrize(
    "build",
    [
        rows_of_a_vocabulary,
        covariance,
        covariances_of_samples,
        tokens_of_an_expert,
        computed_from_what_is_refuted,
        written_to_before_it_is_read,
        written_to_after_it_was_reduced,
        own_value_in_one_of_two_sums,
        log_sum_exp,
        share_of_the_residual_in_the_partial_sum,
        product_that_is_summed,
        received_from_the_others,
    ],
)
def test_a_ranks_own_value_never_meets_shards(build: Build, recognise: str) -> None:
    on_every_rank(build, recognise=recognise)


def test_a_sum_of_what_is_cut_names_the_value_and_the_collective() -> None:
    def product(w: Writer) -> None:
        reduced = w.over_ranks(w.stream("partial", "per_rank"))
        scaled = w.call(aten.mul.Tensor, reduced, w.stream("own", "per_rank"))
        w.output([w.over_ranks(w.call(aten.cumsum.default, scaled, 0))])

    _, results, _ = on_every_rank(product)
    assert results[0].skipped[0].reason == (
        "%own is this rank's own, as %all_reduce_default_1 = _c10d_functional.all_reduce.default "
        "over all ranks shows, and would be read beside shards"
    )


def test_what_was_written_to_is_no_value_of_its_name() -> None:
    _, results, _ = on_every_rank(written_to_before_it_is_read)
    assert results[0].assumptions == ()
    assert results[0].skipped[0].reason == (
        "%add__tensor = aten.add_.Tensor writes in place to %residual"
    )


def test_what_a_condition_compares_may_be_the_same_on_every_rank() -> None:
    def compared(w: Writer) -> None:
        mask = outside(w)
        found = w.project(w.norm(w.stream("hidden")), "table")
        stream = w.over_ranks(w.call(aten.masked_fill.Scalar, found, mask, 0.0))
        ids = next(node for node in w.graph.nodes if node.name == "ids")
        w.output([w.norm(w.call(aten.add.Tensor, stream, ids))])

    graphs, results, _ = on_every_rank(compared)
    assert collectives(graphs[0]) == ["reduce_scatter_tensor", "all_gather_into_tensor"]
    assert [each.value for each in results[0].assumptions] == ["ids"]


def residual(w: Writer) -> None:
    reduced = w.over_ranks(w.stream("partial", "per_rank"))
    gain = w.placeholder("gain", (WIDTH,), F32, kind="gain")
    normed = w.norm(w.call(aten.add.Tensor, reduced, w.stream("residual")))
    w.output([w.call(aten.mul.Tensor, normed, gain)])


def test_an_unknown_residual_is_cut_and_listed() -> None:
    graphs, results, _ = on_every_rank(residual)
    assert collectives(graphs[0]) == ["reduce_scatter_tensor", "all_gather_into_tensor"]
    assert [each.value for each in results[0].assumptions] == ["residual", "gain"]
    assert "taken to be the same on every rank: residual, gain" in str(results[0])


def test_nothing_is_taken_on_trust_where_all_is_proved() -> None:
    def proved(w: Writer) -> None:
        reduced = w.over_ranks(w.stream("partial", "per_rank"))
        ones = w.call(aten.full.default, [8, WIDTH], 1.0)
        w.output([w.norm(w.call(aten.add.Tensor, reduced, ones))])

    _, results, _ = on_every_rank(proved, replicated="prove")
    assert int(results[0]) == 1
    assert results[0].assumptions == ()


def test_prove_leaves_what_is_not_proved() -> None:
    graphs, results, before = on_every_rank(residual, replicated="prove")
    assert collectives(graphs[0]) == collectives(before)
    assert "%residual is not proved to be the same on every rank" in results[0].skipped[0].reason


@pytest.mark.parametrize(
    "replicated",
    [("residual", "gain"), lambda node: node.name in ("residual", "gain")],
    ids=["names", "predicate"],
)
def test_what_is_named_needs_no_proof(replicated: object) -> None:
    _, results, _ = on_every_rank(residual, replicated=replicated)
    assert int(results[0]) == 1
    assert results[0].assumptions == ()


def test_what_is_not_named_stays() -> None:
    graphs, results, _ = on_every_rank(residual, replicated=["residual"])
    # The residual is added to rows; the gain, which nobody vouches for, is not read beside them.
    assert all(each.value != "gain" for each in results[0].assumptions)
    gathered = [n for n in graphs[0].nodes if n.name.startswith("mul_tensor_2")]
    assert gathered and gathered[0].meta["val"].shape[0] == 8


def test_attention_that_is_whole_on_every_rank_keeps_its_sites() -> None:
    """Its output is added to the stream without an all_reduce, and reaches one only by weights."""

    def model(w: Writer) -> None:
        stream = w.stream("embedded")
        for layer in range(2):
            whole = w.placeholder(f"attention_{layer}", (WIDTH, WIDTH), F32)
            attention = w.call(aten.mm.default, w.norm(stream), whole)
            stream = w.call(aten.add.Tensor, stream, attention)
            partial = w.project(w.norm(stream), f"experts_{layer}")
            stream = w.call(aten.add.Tensor, stream, w.over_ranks(partial))
        w.output([w.norm(stream)])

    _, results, _ = on_every_rank(model)
    assert int(results[0]) == 2


def test_explain_lists_what_would_be_taken_on_trust() -> None:
    writer = Writer()
    residual(writer)
    told = spfast.explain(writer.graph, SequenceParallelConfig(tp_size=WORLD, tp_rank=0))
    assert [each.value for each in told.assumptions] == ["residual", "gain"]
    assert str(told).endswith("taken to be the same on every rank: residual, gain")


def synchronised(operator_: str) -> Build:
    """A residual joins one rank's rows; its largest element of all is reduced over the ranks."""

    def build(w: Writer) -> None:
        residual = w.stream("residual")
        total = w.call(aten.add.Tensor, w.over_ranks(w.project(w.stream("x"), "first")), residual)
        scale = w.over_ranks(w.call(aten.amax.default, residual), operator_)
        w.output([w.norm(total), scale])

    return build


def test_a_maximum_over_all_tokens_does_not_show_that_ranks_differ() -> None:
    _, results, _ = on_every_rank(synchronised("max"))
    assert [int(result) for result in results] == [1] * WORLD
    assert "residual" in [one.value for one in results[0].assumptions]


def test_a_sum_of_it_does() -> None:
    _, results, _ = on_every_rank(synchronised("sum"))
    assert [int(result) for result in results] == [0] * WORLD
