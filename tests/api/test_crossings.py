"""What one graph shows of a value holds in the graphs that it is passed to, and the other way."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.fxgraph.crossings import crossings
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
F32 = torch.float32


def config(**fields: Any) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, **fields)


class Writer(GraphBuilder):
    def __init__(self) -> None:
        super().__init__(tokens=8, dynamic=False)

    def stream(self, name: str) -> fx.Node:
        return self.placeholder(name, (TOKENS, 16), F32, kind="per_rank")

    def reduced(self, x: fx.Node) -> fx.Node:
        return self.call(
            c10d.wait_tensor.default, self.call(c10d.all_reduce.default, x, "sum", "tp")
        )

    def sent(self, x: fx.Node) -> fx.Node:
        sizes = [2] * 4
        return self.call(
            c10d.wait_tensor.default,
            self.call(c10d.all_to_all_single.default, x, sizes, sizes, "tp"),
        )

    def norm(self, x: fx.Node) -> fx.Node:
        mean = self.call(aten.mean.dim, self.call(aten.pow.Tensor_Scalar, x, 2), [-1], True)
        scale = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, mean, 1e-6))
        return self.call(aten.mul.Tensor, x, scale)

    def piece(self, name: str, like: fx.Node, *operands: fx.Node) -> fx.Node:
        """Calls a graph that returns one value."""
        called = self.graph.call_module(name, operands)
        called.meta["val"] = (like.meta["val"],)
        result = self.graph.call_function(operator.getitem, (called, 0))
        result.meta["val"] = like.meta["val"]
        return result

    def choice(self, yes: str, no: str, like: fx.Node, *operands: fx.Node) -> fx.Node:
        predicate = self.placeholder("predicate", (), torch.bool)
        branches = (self.graph.get_attr(yes), self.graph.get_attr(no))
        called = self.graph.call_function(
            torch.ops.higher_order.cond, (predicate, *branches, operands)
        )
        called.meta["val"] = (like.meta["val"],)
        result = self.graph.call_function(operator.getitem, (called, 0))
        result.meta["val"] = like.meta["val"]
        return result


def site() -> fx.GraphModule:
    """x is reduced, added to the residual and normed."""
    w = Writer()
    x, residual = w.stream("x"), w.stream("residual")
    w.output([w.norm(w.call(aten.add.Tensor, w.reduced(x), residual))])
    return fx.GraphModule({}, w.graph)


def made(make: Callable[[Writer, fx.Node], fx.Node]) -> fx.GraphModule:
    """A graph of one input that returns what is made of it."""
    w = Writer()
    w.output([make(w, w.stream("y"))])
    return fx.GraphModule({}, w.graph)


def relu(w: Writer, value: fx.Node) -> fx.Node:
    return w.call(aten.relu.default, value)


def model(build: Callable[[Writer, fx.Node, fx.Node], fx.Node], **pieces: Any) -> fx.GraphModule:
    w = Writer()
    x, residual = w.stream("x"), w.stream("residual")
    w.output([build(w, x, residual)])
    return fx.GraphModule(pieces, w.graph)


def piece_of_what_the_caller_reduces(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        total = w.call(aten.relu.default, w.reduced(residual) if shown else x)
        return w.call(aten.add.Tensor, w.piece("first", x, x, residual), total)

    return model(build, first=site())


def branch_of_what_the_caller_reduces(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        total = w.call(aten.relu.default, w.reduced(residual) if shown else x)
        chosen = w.choice("first", "other", x, x, residual)
        return w.call(aten.add.Tensor, chosen, total)

    other = Writer()
    a, _ = other.stream("a"), other.stream("b")
    other.output([relu(other, a)])
    return model(build, first=site(), other=fx.GraphModule({}, other.graph))


def piece_beside_one_that_reduces(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        total = w.piece("second", x, residual)
        return w.call(aten.add.Tensor, w.piece("first", x, x, residual), total)

    reducing = made(lambda w, y: relu(w, w.reduced(y) if shown else y))
    return model(build, first=site(), second=reducing)


def result_of_a_piece(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        received = w.call(aten.relu.default, w.piece("first", x, residual))
        return w.norm(w.call(aten.add.Tensor, w.reduced(x), received))

    return model(build, first=made(lambda w, y: w.sent(y) if shown else relu(w, y)))


def result_that_goes_on(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        received = w.piece("second", x, w.piece("first", x, residual))
        return w.piece("third", x, x, received)

    sending = made(lambda w, y: w.sent(y) if shown else relu(w, y))
    return model(build, first=sending, second=made(relu), third=site())


def buffer_that_a_piece_reduces(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        buffer = w.call(aten.zeros.default, [8, 16])
        w.call(aten.copy_.default, buffer, residual)
        total = w.piece("second", x, buffer if shown else x)
        normed = w.norm(w.call(aten.add.Tensor, w.reduced(x), residual))
        return w.call(aten.add.Tensor, normed, total)

    return model(build, second=made(lambda w, y: relu(w, w.reduced(y))))


def piece_that_reduces_what_is_computed(shown: bool) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        total = w.piece("second", x, relu(w, residual))
        normed = w.norm(w.call(aten.add.Tensor, w.reduced(x), residual))
        return w.call(aten.add.Tensor, normed, total)

    reducing = made(lambda w, y: relu(w, w.reduced(y) if shown else y))
    return model(build, second=reducing)


def result_that_the_caller_reduces(shown: bool) -> fx.GraphModule:
    inner = Writer()
    x, residual = inner.stream("x"), inner.stream("residual")
    normed = inner.norm(inner.call(aten.add.Tensor, inner.reduced(x), residual))
    inner.output([inner.call(aten.mul.Tensor, normed, 2.0), relu(inner, residual)])

    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        called = w.graph.call_module("first", (x, residual))
        called.meta["val"] = (x.meta["val"], x.meta["val"])
        results = [w.graph.call_function(operator.getitem, (called, at)) for at in (0, 1)]
        for each in results:
            each.meta["val"] = x.meta["val"]
        total = w.reduced(results[1]) if shown else relu(w, results[1])
        return w.call(aten.add.Tensor, relu(w, results[0]), total)

    return model(build, first=fx.GraphModule({}, inner.graph))


MODELS = [
    piece_that_reduces_what_is_computed,
    result_that_the_caller_reduces,
    buffer_that_a_piece_reduces,
    piece_of_what_the_caller_reduces,
    branch_of_what_the_caller_reduces,
    piece_beside_one_that_reduces,
    result_of_a_piece,
    result_that_goes_on,
]


@pytest.mark.parametrize("build", MODELS)
def test_a_value_that_another_graph_shows_to_be_a_ranks_own_stays(
    build: Callable[[bool], fx.GraphModule],
) -> None:
    result = spfast.apply(build(True), config(validate=True))
    assert not [each for each in result.assumptions if "residual" in each.value]
    reasons = [each.reason for each in result.skipped]
    said = "as a graph that calls this one or that this one calls shows"
    assert any(said in each for each in reasons), reasons


@pytest.mark.parametrize("build", MODELS)
def test_what_no_graph_shows_is_taken_on_trust(build: Callable[[bool], fx.GraphModule]) -> None:
    result = spfast.apply(build(False), config(validate=True))
    assert int(result) > 0 and result.assumptions


@pytest.mark.parametrize("build", MODELS)
def test_the_verifier_finds_it_by_itself(
    build: Callable[[bool], fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spfast.api.tell_across", lambda runs: None)
    for shown in (True, False):
        module = build(shown)
        before = spfast.snapshot(module)
        assert int(spfast.apply(module, config())) > 0
        assert spfast.verify(before, module, config()).ok is not shown


def test_operands_meet_inputs_and_results_what_is_returned() -> None:
    module = branch_of_what_the_caller_reduces(shown=False)
    graphs = {"first": module.first.graph, "other": module.other.graph}
    met = [f"{one} -> {other}" for one, other, _ in crossings(module.graph, "", graphs)]
    assert met == [
        "('', x) -> ('first', x)",
        "('', residual) -> ('first', residual)",
        "('first', mul_tensor) -> ('', getitem)",
        "('', x) -> ('other', a)",
        "('', residual) -> ('other', b)",
        "('other', relu_default) -> ('', getitem)",
    ]


def test_what_one_turn_of_a_loop_returns_is_what_the_next_one_is_given() -> None:
    w = Writer()
    w.graph.placeholder("unused")
    body = made(relu)
    called = w.graph.call_function(
        torch.ops.higher_order.while_loop,
        (w.graph.get_attr("cond_fn"), w.graph.get_attr("body"), (w.stream("x"),), ()),
    )
    w.output([called])
    module = fx.GraphModule({"cond_fn": made(relu), "body": body}, w.graph)
    graphs = {"cond_fn": module.cond_fn.graph, "body": module.body.graph}
    met = [f"{one} -> {other}" for one, other, _ in crossings(w.graph, "", graphs)]
    met = [each for each in met if "cond_fn" not in each]
    assert met == ["('', x) -> ('body', y)", "('body', relu_default) -> ('body', y)"]


@pytest.mark.parametrize("keywords", [{}, {"use_reentrant": False}])
def test_a_checkpointed_body_keeps_its_site(keywords: dict[str, bool]) -> None:
    """What an operator is given beside a graph and its inputs is none of these."""
    w = Writer()
    x, residual = w.stream("x"), w.stream("residual")
    called = w.graph.call_function(
        torch.ops.higher_order.tag_activation_checkpoint,
        (w.graph.get_attr("body"), x, residual),
        keywords,
    )
    called.meta["val"] = (x.meta["val"],)
    result = w.graph.call_function(operator.getitem, (called, 0))
    result.meta["val"] = x.meta["val"]
    w.output([result])
    found = spfast.apply(fx.GraphModule({"body": site()}, w.graph), config(validate=True))
    assert [each.value for each in found.assumptions] == ["body.residual"]


def test_a_piece_is_no_loop_whatever_its_name() -> None:
    w = Writer()
    x = w.stream("x")
    w.output([w.piece("scan_while_loop", x, x)])
    piece = made(relu)
    module = fx.GraphModule({"scan_while_loop": piece}, w.graph)
    met = list(crossings(module.graph, "", {"scan_while_loop": piece.graph}))
    assert [(one[0], other[0]) for one, other, _ in met] == [
        ("", "scan_while_loop"),
        ("scan_while_loop", ""),
    ]
