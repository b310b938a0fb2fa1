"""register_graph_pattern: users' own handlers, and what a Match offers them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import agree, not_older

aten = torch.ops.aten
both = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])


def handling(pattern: Callable[[Any], Any], handler: Any, **options: Any) -> Any:
    """A pass with one pattern and one handler, which gets (pm, spy, match, *args, **kwargs)."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("handling")

        @pm.register_graph_pattern(pattern(pm), pass_dict=matcher, **options)
        def handle(match: Any, *args: Any, **kwargs: Any) -> None:
            spy.match(match)
            handler(pm, spy, match, *args, **kwargs)

        return matcher

    return define


def add_relu(pm: Any) -> Any:
    added = pm.CallFunction(aten.add.Tensor, pm.KeywordArg("x"), pm.KeywordArg("y"))
    return pm.CallFunction(aten.relu.default, added)


def model(x: Any, y: Any) -> Any:
    for _ in range(3):
        x = aten.relu(aten.add(x, y))
    return x, aten.neg(x)


def graph(fn: Any = model, dynamic: bool = False) -> Any:
    def build() -> Any:
        if not dynamic:
            return trace(fn, *vectors(2))
        make = Inputs(s=6)
        inputs = make.sizes["s"], make.tensor("s", 8), make.tensor("s", 8)
        return trace(lambda s, x, y: fn(x, y), *inputs)

    return build


@not_older("it fails where the replacement is traced by hand")
@both
def test_replace_by_example(dynamic: bool) -> None:
    def handler(pm: Any, spy: Any, match: Any, x: Any, y: Any) -> None:
        def replacement(x: Any, y: Any) -> Any:
            return aten.sigmoid(aten.mul(x.reshape(-1), y.reshape(-1)).view(x.shape))

        added = match.replace_by_example(replacement, [x, y])
        spy.note([str(node.target) for node in added])

    agree(handling(add_relu, handler), graph(model, dynamic), count=3, spy=True)


@both
def test_replace_by_example_of_one_node(dynamic: bool) -> None:
    """A match of one node hands its metadata on to all that replaces it."""

    def pattern(pm: Any) -> Any:
        return pm.CallFunction(aten.relu.default, pm.Arg())

    def handler(pm: Any, spy: Any, match: Any, x: Any) -> None:
        match.replace_by_example(lambda x: aten.sigmoid(aten.neg(x)), [x])

    agree(handling(pattern, handler), graph(model, dynamic), count=3, spy=True)


def test_replace_by_example_with_literals_and_own_trace() -> None:
    def pattern(pm: Any) -> Any:
        return pm.CallFunction(aten.add.Tensor, pm.Arg(), pm.KeywordArg("shift"))

    def handler(pm: Any, spy: Any, match: Any, x: Any, shift: Any) -> None:
        def traced(fn: Any, args: Any, **options: Any) -> Any:
            spy.note("traced", len(args))
            return pm.fwd_only(fn, args, run_functional_passes=False, **options)

        match.replace_by_example(lambda x: aten.sub(aten.clone(x), shift), [x], trace_fn=traced)

    define = handling(pattern, handler)
    agree(define, graph(lambda x, y: aten.add(x, 2.5)), count=1, spy=True)


@both
def test_edits_by_hand(dynamic: bool) -> None:
    def handler(pm: Any, spy: Any, match: Any, x: Any, y: Any) -> None:
        old = match.output_node()
        new = match.graph.call_function(aten.maximum.default, (x, y))
        new.meta.update(old.meta)
        old.replace_all_uses_with(new)
        match.erase_nodes()
        spy.note([node._erased for node in match.nodes])

    agree(handling(add_relu, handler), graph(model, dynamic), count=3, spy=True)


def test_erase_nodes_keeps_what_is_used() -> None:
    def tapped(x: Any, y: Any) -> Any:
        added = aten.add(x, y)
        return aten.relu(added), aten.neg(added)

    def pattern(pm: Any) -> Any:
        added = pm.CallFunction(aten.add.Tensor, pm.KeywordArg("x"), pm.KeywordArg("y"), _users=2)
        return pm.CallFunction(aten.relu.default, added)

    def handler(pm: Any, spy: Any, match: Any, x: Any, y: Any) -> None:
        match.output_node().replace_all_uses_with(x)
        match.erase_nodes()
        spy.note([node._erased for node in match.nodes])

    agree(handling(pattern, handler), graph(tapped), count=1, spy=True)


def test_replace_with_graph() -> None:
    def handler(pm: Any, spy: Any, match: Any, x: Any, y: Any) -> None:
        vals = [x.meta["val"], y.meta["val"]]
        traced = pm.fwd_only(lambda x, y: aten.sigmoid(aten.mul(x, y)), vals)
        match.replace_with_graph(traced, [x, y])

    agree(handling(add_relu, handler), graph(), count=3, spy=True)


def test_arguments_in_depth_first_order() -> None:
    def pattern(pm: Any) -> Any:
        left = pm.CallFunction(aten.add.Tensor, pm.Arg(), pm.KeywordArg("b"))
        right = pm.CallFunction(aten.mul.Tensor, pm.Arg(), pm.Arg())
        return pm.CallFunction(aten.sub.Tensor, left, right, alpha=pm.KeywordArg("alpha"))

    def handler(pm: Any, spy: Any, match: Any, *args: Any, **kwargs: Any) -> None:
        spy.note([str(a) for a in args], sorted((k, str(v)) for k, v in kwargs.items()))

    def fn(x: Any, y: Any) -> Any:
        return aten.sub(aten.add(x, 2), aten.mul(y, x), alpha=3)

    agree(handling(pattern, handler), graph(fn), count=1, spy=True)


def test_lists_reach_the_handler_as_tuples() -> None:
    def pattern(pm: Any) -> Any:
        relu = pm.CallFunction(aten.relu.default, pm.Arg(), _users=pm.MULTIPLE)
        shifted = pm.CallFunction(aten.add.Tensor, relu, pm.Arg())
        return pm.CallFunction(aten.cat.default, pm.ListOf(shifted), pm.KeywordArg("dim"))

    def handler(pm: Any, spy: Any, match: Any, parts: Any, dim: Any) -> None:
        spy.note(type(parts).__name__, len(parts), [type(p).__name__ for p in parts], dim)
        for node in match.nodes:
            spy.note(str(node.target))

    def fn(x: Any, y: Any) -> Any:
        r = aten.relu(x)
        return aten.cat([aten.add(r, 1), aten.add(r, y), aten.add(r, 2)], 1)

    agree(handling(pattern, handler), graph(fn), count=1, spy=True)


def test_repeated_expression_sees_each_getitem_once() -> None:
    def pattern(pm: Any) -> Any:
        split = pm.CallFunction(
            aten.split_with_sizes.default,
            pm.KeywordArg("x"),
            pm.Ignored(),
            pm.Ignored(),
            _users=pm.MULTIPLE,
        )
        item = pm.CallFunction(operator.getitem, split, pm.Ignored(), _users=pm.MULTIPLE)
        return pm.RepeatedExpr(item)

    def handler(pm: Any, spy: Any, match: Any, x: Any) -> None:
        for i, node in enumerate(match.nodes):
            if node.target is operator.getitem:
                spy.note(i, node.args[1])

    def fn(x: Any, y: Any) -> Any:
        a, b, c = aten.split_with_sizes(x, [2, 2, 4], 1)
        return aten.cat([c, b, a], 1)

    agree(handling(pattern, handler), graph(fn), spy=True)


def test_prepended_patterns_come_first() -> None:
    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("order")
        for name, prepend in (("second", False), ("third", False), ("first", True)):

            def check(match: Any, name: str = name) -> bool:
                spy.note(name)
                return False

            pm.register_graph_pattern(
                add_relu(pm), extra_check=check, pass_dict=matcher, prepend=prepend
            )(lambda match, **kw: None)
        return matcher

    outcome = agree(define, graph(lambda x, y: aten.relu(aten.add(x, y))), count=0, spy=True)
    assert outcome.notes == [("first",), ("second",), ("third",)]


def test_a_pattern_registered_for_several_targets() -> None:
    def pattern(pm: Any) -> Any:
        return pm.CallFunction([aten.relu.default, aten.neg.default], pm.Arg())

    def handler(pm: Any, spy: Any, match: Any, x: Any) -> None:
        match.replace_by_example(lambda x: aten.sigmoid(x), [x])

    agree(handling(pattern, handler), graph(), count=4, spy=True)


def test_lowering_patterns() -> None:
    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("lowering")

        @pm.register_lowering_pattern(add_relu(pm), pass_dict=matcher)
        def fused_add_relu(match: Any, x: Any, y: Any) -> Any:
            raise AssertionError("called at lowering time, not here")

        spy.note(fused_add_relu._inductor_lowering_function)
        return matcher

    outcome = agree(define, graph(), count=3, spy=True)
    calls = [n for n in outcome.nodes if n["target"].endswith("fused_add_relu")]
    assert len(calls) == 3


def test_a_handler_that_leaves_the_graph_alone() -> None:
    define = handling(add_relu, lambda pm, spy, match, x, y: None)
    agree(define, graph(), count=3, spy=True)


def test_a_handler_that_inserts_a_mutation() -> None:
    """Regions are computed anew: later candidates see the barrier."""

    def handler(pm: Any, spy: Any, match: Any, x: Any, y: Any) -> None:
        copied = match.graph.call_function(aten.copy_.default, (y, x))
        copied.meta["val"] = y.meta["val"]

    agree(handling(add_relu, handler), graph(), spy=True)


def test_a_handler_that_erases_a_mutation() -> None:
    def fn(x: Any, y: Any) -> Any:
        a = aten.relu(aten.add(x, y))
        aten.add_(y, 1.0)
        return aten.relu(aten.add(a, y))

    def handler(pm: Any, spy: Any, match: Any, x: Any, y: Any) -> None:
        for node in list(match.graph.nodes):
            if node.target is aten.add_.default and not node.users:
                match.graph.erase_node(node)

    agree(handling(add_relu, handler), graph(fn), spy=True)
