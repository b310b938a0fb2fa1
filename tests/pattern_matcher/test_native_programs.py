"""Native programs against torch's own objects: the same answer at every node, the same bindings."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
import torch._inductor.pattern_matcher as stock
import torch.fx as fx
from pattern_matcher.harness import not_older

from spfast.pattern_matcher.lowering import route_of

aten = torch.ops.aten
relu, add, neg, cat = aten.relu.default, aten.add.Tensor, aten.neg.default, aten.cat.default


class Builder:
    """A graph typed by hand: names are all that its nodes have."""

    def __init__(self, *inputs: str) -> None:
        self.graph = fx.Graph()
        self.inputs = [self.graph.placeholder(name) for name in inputs]

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(target, args, kwargs)

    def done(self, *outputs: fx.Node) -> fx.Graph:
        self.graph.output(outputs)
        return self.graph


def described(match: Any) -> Any:
    if not match:
        return None
    bound = {repr(key): value for key, value in match.ctx.pattern_to_node.items()}
    return {
        "args": match.args,
        "kwargs": list(match.kwargs.items()),
        "nodes": match.nodes,
        "targets": list(match.targets.items()),
        "outputs": match.output_nodes(),
        "bound": bound,
    }


def same_everywhere(pattern: Any, graph: fx.Graph) -> list[str]:
    """The names of the nodes where a pattern matches, which torch's object confirms."""
    route = route_of(pattern)
    assert route.program is not None, route.reason
    matched = []
    for node in graph.nodes:
        wanted = described(pattern.match(node))
        assert described(route.match(node)) == wanted, node
        assert route.accepts(node) == (wanted is not None), node
        if wanted is not None:
            matched.append(node.name)
    return matched


def call(*args: Any, users: Any = 1, **kwargs: Any) -> Any:
    return stock.CallFunction(*args, _users=users, **kwargs)


def key(name: str) -> Any:
    return stock.KeywordArg(name)


def test_a_chain_and_its_single_use() -> None:
    b = Builder("x", "y")
    x, y = b.inputs
    once = b.call(relu, x)
    twice = b.call(relu, y)
    graph = b.done(b.call(neg, once), b.call(neg, twice), twice)
    assert same_everywhere(call(neg, call(relu, key("x"))), graph) == ["neg_default"]
    everywhere = call(neg, call(relu, key("x"), users=stock.MULTIPLE))
    assert same_everywhere(everywhere, graph) == ["neg_default", "neg_default_1"]


def test_a_shared_name_binds_one_value() -> None:
    b = Builder("x", "y")
    x, y = b.inputs
    graph = b.done(b.call(add, x, x), b.call(add, x, y), b.call(add, x, 1), b.call(add, 1, 1))
    one = key("x")
    assert same_everywhere(call(add, one, one), graph) == ["add_tensor", "add_tensor_3"]
    # Two objects of one name: the bindings are compared when they meet.
    assert same_everywhere(call(add, key("x"), key("x")), graph) == ["add_tensor", "add_tensor_3"]
    distinct = call(add, stock.ExclusiveKeywordArg("a"), stock.ExclusiveKeywordArg("b"))
    assert same_everywhere(distinct, graph) == ["add_tensor_1", "add_tensor_2"]


@pytest.mark.parametrize(
    ("literal", "found"),
    [(2, True), (2.0, True), (True, False), (3, False), (None, False), ("2", False)],
)
def test_literals_are_compared_as_python_does(literal: Any, found: bool) -> None:
    b = Builder("x")
    graph = b.done(b.call(add, b.inputs[0], 2))
    assert bool(same_everywhere(call(add, key("x"), literal), graph)) is found


def test_a_literal_is_no_node_and_nan_is_not_itself() -> None:
    b = Builder("x")
    nan = float("nan")
    graph = b.done(b.call(add, b.inputs[0], nan), b.call(add, b.inputs[0], b.inputs[0]))
    assert same_everywhere(call(add, key("x"), nan), graph) == []
    assert same_everywhere(call(add, key("x"), 1), graph) == []


def test_lists_match_by_their_nesting() -> None:
    b = Builder("x", "y")
    x, y = b.inputs
    graph = b.done(b.call(cat, [x, y], 1), b.call(cat, [x], 1), b.call(cat, (x, y), 0))
    assert same_everywhere(call(cat, [key("a"), key("b")], 1), graph) == ["cat_default"]
    assert same_everywhere(call(cat, (key("a"), key("b")), 0), graph) == ["cat_default_2"]
    assert same_everywhere(call(cat, key("list"), 1), graph) == ["cat_default", "cat_default_1"]
    assert same_everywhere(call(cat, [], 1), graph) == []


def test_keywords_of_the_node_that_the_pattern_does_not_name() -> None:
    b = Builder("x")
    empty = aten.empty_like.default
    x = b.inputs[0]
    graph = b.done(
        b.call(empty, x, dtype=torch.float16, pin_memory=False),
        b.call(empty, x, pin_memory=False, dtype=torch.float16),
        b.call(empty, x),
    )
    assert same_everywhere(call(empty, key("x"), dtype=torch.float16), graph) == [
        "empty_like_default",
        "empty_like_default_1",
    ]
    # The order of keywords counts, and what the node leaves to defaults is filled in.
    both = call(empty, key("x"), pin_memory=False, dtype=torch.float16)
    assert same_everywhere(both, graph) == ["empty_like_default_1"]
    assert "empty_like_default_2" in same_everywhere(call(empty, key("x"), dtype=None), graph)


def test_lists_of_one_expression() -> None:
    b = Builder("x", "y")
    x, y = b.inputs
    both = b.call(cat, [b.call(relu, x), b.call(relu, y)])
    mixed = b.call(cat, [b.call(relu, x), b.call(neg, y)])
    graph = b.done(both, mixed)
    whole = call(cat, stock.ListOf(call(relu, stock.Arg())))
    assert same_everywhere(whole, graph) == ["cat_default"]
    partly = call(cat, stock.ListOf(call(relu, stock.Arg()), partial=True))
    assert same_everywhere(partly, graph) == ["cat_default", "cat_default_1"]


def test_several_outputs_are_found_from_their_inputs() -> None:
    b = Builder("x", "y")
    x, y = b.inputs
    first = b.call(relu, x)
    second = b.call(relu, y)
    graph = b.done(
        b.call(neg, first), b.call(add, first, 1), b.call(add, first, 2), b.call(neg, second)
    )
    shared = call(relu, key("x"), users=3)
    pattern = stock.MultiOutputPattern([call(neg, shared), call(add, shared, 2)])
    assert same_everywhere(pattern, graph) == ["neg_default"]


@not_older("RepeatedExpr visits other nodes")
def test_repeated_expressions() -> None:
    split, getitem = aten.split.Tensor, __import__("operator").getitem
    for indices, count in (([0, 1], 2), ([0, 7], 2)):
        b = Builder("x")
        parts = b.call(split, b.inputs[0], 2)
        graph = b.done(*(b.call(getitem, parts, i) for i in indices))
        inner = call(getitem, call(split, key("x"), 2, users=stock.MULTIPLE), stock.Ignored())
        assert len(same_everywhere(stock.RepeatedExpr(inner), graph)) == count


def test_varargs_bind_everything() -> None:
    b = Builder("x", "y")
    graph = b.done(b.call(add, *b.inputs, alpha=2))
    assert same_everywhere(stock.CallFunctionVarArgs(add), graph) == ["add_tensor"]


def test_methods_and_modules() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = torch.nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x.neg())

    gm = fx.symbolic_trace(Model())
    pattern = stock.CallModule(torch.nn.ReLU, stock.CallMethod("neg", key("x")))
    assert same_everywhere(pattern, gm.graph) == ["act"]
    other = stock.CallModule(torch.nn.GELU, stock.CallMethod("neg", key("x")))
    assert same_everywhere(other, gm.graph) == []


def test_what_torch_alone_can_judge_is_left_to_it() -> None:
    """A type that pytrees take apart by rules of its own: here, a named tuple."""
    pair = collections.namedtuple("pair", "rows columns")
    b = Builder("x")
    graph = b.done(b.call(aten.expand.default, b.inputs[0], pair(2, 3)))
    pattern = call(aten.expand.default, key("x"), [2, 3])
    assert route_of(pattern).program.accepts(_at(graph)) is None
    assert same_everywhere(pattern, graph) == []
    plain = Builder("x")
    graph = plain.done(plain.call(aten.expand.default, plain.inputs[0], [2, 3]))
    assert route_of(pattern).program.accepts(_at(graph)) is True
    assert same_everywhere(pattern, graph) == ["expand_default"]


def _at(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.op == "call_function")
