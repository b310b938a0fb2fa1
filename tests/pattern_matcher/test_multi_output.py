"""Patterns and replacements with several outputs: where they go, and what uses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pattern_matcher.describe import describe, difference
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import Spy, agree, subject
from torch._inductor import pattern_matcher as torch_matcher

aten = torch.ops.aten
both = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])


def rules(*pairs: Any, inputs: int = 2) -> Any:
    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("several")

        def check(match: Any) -> bool:
            spy.match(match)
            return True

        for search, replace in pairs:
            with Inputs().mode:
                examples = [torch.empty(2, 4) for _ in range(inputs)]
                pm.register_replacement(
                    search, replace, examples, pm.fwd_only, matcher, extra_check=check
                )
        return matcher

    return define


def graph(fn: Any, dynamic: bool = False, inputs: int = 2) -> Any:
    def build() -> Any:
        if not dynamic:
            return trace(fn, *vectors(inputs))
        make = Inputs(s=6)
        tensors = [make.tensor("s", 8) for _ in range(inputs)]
        return trace(lambda s, *given: fn(*given), make.sizes["s"], *tensors)

    return build


def add_norm(x: Any, y: Any) -> Any:
    summed = aten.add(x, y)
    return aten.mul(summed, aten.rsqrt(aten.mean(summed, [-1], True))), summed


def fused(x: Any, y: Any) -> Any:
    summed = aten.sub(x, y)
    return aten.tanh(summed), summed


@both
def test_two_outputs_in_a_chain(dynamic: bool) -> None:
    def model(x: Any, y: Any) -> Any:
        for _ in range(4):
            normed, y = add_norm(x, y)
            x = aten.sin(normed)
        return x, y

    agree(rules((add_norm, fused)), graph(model, dynamic), count=4, spy=True)


@both
def test_one_of_the_outputs_is_not_used(dynamic: bool) -> None:
    def first_only(x: Any, y: Any) -> Any:
        return aten.sin(add_norm(x, y)[0])

    def second_only(x: Any, y: Any) -> Any:
        return aten.sin(add_norm(x, y)[1])

    for model in (first_only, second_only):
        agree(rules((add_norm, fused)), graph(model, dynamic), spy=True)


@both
def test_outputs_used_before_the_last_one_is_made(dynamic: bool) -> None:
    """A user of the first output stands between the outputs: the new nodes must precede it."""

    def model(x: Any, y: Any) -> Any:
        summed = aten.add(x, y)
        early = aten.sin(summed)
        normed = aten.mul(summed, aten.rsqrt(aten.mean(summed, [-1], True)))
        return early, normed

    agree(rules((add_norm, fused)), graph(model, dynamic), spy=True)


def relu_pair(x: Any, y: Any) -> Any:
    r = aten.relu(x)
    return aten.neg(r), aten.add(r, y)


def test_an_input_made_between_the_outputs() -> None:
    """An input of the second output is made after the first one.

    Torch inserts before the first output and leaves a graph that is out of order, for its callers
    to sort; ours is in order at once, and the same.
    """

    def replace(x: Any, y: Any) -> Any:
        r = aten.sigmoid(x)
        return aten.cos(r), aten.sub(r, y)

    def model(x: Any, y: Any) -> Any:
        r = aten.relu(x)
        first = aten.neg(r)
        late = aten.tan(aten.cos(y))
        return aten.add(r, late), aten.sin(first)

    agree(rules((relu_pair, replace)), graph(model), count=1, spy=True, sort=True)


def test_a_user_of_one_output_feeds_the_other() -> None:
    """Rewriting would tie a knot: torch does it all the same, ours leaves the match alone."""

    def replace(x: Any, y: Any) -> Any:
        both = aten.maximum(x, y)
        return aten.cos(both), aten.sin(both)

    def model(x: Any, y: Any) -> Any:
        r = aten.relu(x)
        fed = aten.tanh(aten.neg(r))
        return aten.add(r, fed)

    define = rules((relu_pair, replace))
    knotted = graph(model)()
    assert define(torch_matcher, Spy()).apply(knotted) == 1
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        knotted.graph.lint()

    gm = graph(model)()
    before = describe(gm.graph)
    assert define(subject(), Spy()).apply(gm) == 0
    assert difference(describe(gm.graph), before) is None


@both
def test_an_op_with_several_results(dynamic: bool) -> None:
    """The pattern's root is an op whose results are unpacked by getitem."""

    def search(x: Any, y: Any) -> Any:
        values, indices = aten.sort(aten.add(x, y))
        return values, indices

    def replace(x: Any, y: Any) -> Any:
        values, indices = aten.topk(aten.sub(x, y), x.shape[-1])
        return values, indices

    def model(x: Any, y: Any) -> Any:
        values, indices = aten.sort(aten.add(x, y))
        again, _ = aten.sort(aten.add(values, y))
        return again, indices

    agree(rules((search, replace)), graph(model, dynamic), spy=True)


def test_a_packed_result_replaced_by_unpacked_ones() -> None:
    """One matched node with getitem users, a replacement that returns a tuple."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("packed")

        @pm.register_graph_pattern(
            pm.CallFunction(aten.split.Tensor, pm.KeywordArg("x"), 4, 1), pass_dict=matcher
        )
        def handler(match: Any, x: Any) -> None:
            spy.match(match)

            def replacement(x: Any) -> Any:
                return aten.slice(x, 1, 0, 4), aten.slice(x, 1, 4, 8)

            match.replace_by_example(replacement, [x])

        return matcher

    def model(x: Any, y: Any) -> Any:
        a, b = aten.split(x, 4, 1)
        return aten.add(b, a), aten.neg(b)

    agree(define, graph(model), count=1, spy=True)


@both
def test_replacement_with_unused_parts(dynamic: bool) -> None:
    """What nobody uses of a replacement is removed again."""

    def replace(x: Any, y: Any) -> Any:
        parts = aten.split(aten.mul(x, y), 2, 1)
        return aten.cat([parts[0], parts[1]], 1).sum(), aten.sub(x, y)

    def search(x: Any, y: Any) -> Any:
        return aten.sum(aten.relu(x)), aten.add(aten.relu(x), y)

    def model(x: Any, y: Any) -> Any:
        r = aten.relu(x)
        return aten.sum(r), aten.add(r, y)

    agree(rules((search, replace)), graph(model, dynamic), spy=True)


def test_three_outputs_with_separate_anchors() -> None:
    def search(x: Any, y: Any) -> Any:
        r = aten.relu(aten.add(x, y))
        return aten.neg(r), aten.sin(r), aten.mul(r, x)

    def replace(x: Any, y: Any) -> Any:
        r = aten.sigmoid(aten.sub(x, y))
        return aten.cos(r), r, aten.mul(r, y)

    def model(x: Any, y: Any) -> Any:
        r = aten.relu(aten.add(x, y))
        m = aten.mul(r, x)
        s = aten.sin(r)
        return aten.neg(r), m, s

    def two(x: Any, y: Any) -> Any:
        first = model(x, y)
        return model(first[0], first[1]), first[2]

    def one_missing(x: Any, y: Any) -> Any:
        r = aten.relu(aten.add(x, y))
        return aten.neg(r), aten.mul(r, x), aten.cos(r)

    agree(rules((search, replace)), graph(model), count=1, spy=True)
    agree(rules((search, replace)), graph(two), count=2, spy=True)
    agree(rules((search, replace)), graph(one_missing), count=0, spy=True)


def test_the_same_value_returned_twice() -> None:
    def search(x: Any, y: Any) -> Any:
        r = aten.relu(aten.add(x, y))
        return aten.neg(r), r

    def replace(x: Any, y: Any) -> Any:
        r = aten.sigmoid(x + y)
        return r, r

    def model(x: Any, y: Any) -> Any:
        r = aten.relu(aten.add(x, y))
        return aten.neg(r), aten.cos(r)

    agree(rules((search, replace)), graph(model), spy=True)


def test_an_output_that_is_an_argument() -> None:
    def search(x: Any, y: Any) -> Any:
        r = aten.relu(x)
        return aten.neg(r), aten.add(r, y)

    agree(
        rules((search, lambda x, y: (x, aten.sub(x, y)))),
        graph(lambda x, y: (lambda r: (aten.neg(r), aten.add(r, y)))(aten.relu(x))),
        count=1,
        spy=True,
    )


@both
def test_getitem_is_matched_by_its_index(dynamic: bool) -> None:
    def search(x: Any, y: Any) -> Any:
        a, b = aten.split(x, 4, 1)
        return aten.mul(aten.silu(a), b)

    def replace(x: Any, y: Any) -> Any:
        return aten.slice(aten.tanh(x), 1, 0, 4)

    def swapped(x: Any, y: Any) -> Any:
        a, b = aten.split(x, 4, 1)
        return aten.mul(aten.silu(b), a)

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("silu")
        with Inputs().mode:
            pm.register_replacement(
                lambda x: search(x, None),
                lambda x: replace(x, None),
                [torch.empty(2, 8)],
                pm.fwd_only,
                matcher,
                get_decomp_fn=dict,
            )
        return matcher

    agree(define, graph(lambda x, y: search(x, y), dynamic), count=1, spy=True)
    agree(define, graph(swapped, dynamic), count=0, spy=True)
