"""A match never straddles a mutation or a stream change; functionalised mutations are calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pattern_matcher.graphs import F32, Inputs, trace, vectors
from pattern_matcher.harness import agree, not_older
from pattern_matcher.rules import register_add_relu
from torch._higher_order_ops.auto_functionalize import auto_functionalized, auto_functionalized_v2

aten = torch.ops.aten
both = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])

_LIBRARY = torch.library.Library("spfast_test_regions", "FRAGMENT")
for schema in (
    "quantise(Tensor(a!) result, Tensor input, Tensor scale) -> ()",
    "norm(Tensor(a!) result, Tensor input, Tensor weight, float epsilon) -> ()",
    "add_norm(Tensor(a!) input, Tensor(b!) residual, Tensor weight, float epsilon) -> ()",
    "norm_quantise(Tensor(a!) result, Tensor input, Tensor weight, Tensor scale, float epsilon)"
    " -> ()",
    "add_norm_quantise(Tensor(a!) result, Tensor input, Tensor weight, Tensor scale, "
    "Tensor(b!) residual, float epsilon) -> ()",
):
    _LIBRARY.define(schema)
    torch.library.register_fake(
        f"spfast_test_regions::{schema.split('(')[0]}", lambda *a, **k: None, lib=_LIBRARY
    )
ops = torch.ops.spfast_test_regions


def add_relu(pm: Any, spy: Any) -> Any:
    matcher = pm.PatternMatcherPass("regions")

    def check(match: Any) -> bool:
        spy.match(match)
        return True

    return register_add_relu(pm, matcher, extra_check=check)


def graph(fn: Any) -> Any:
    return lambda: trace(fn, *vectors(2))


def test_a_mutation_in_between() -> None:
    def model(x: Any, y: Any) -> Any:
        z = aten.add(x, y)
        aten.mul_(y, 2.0)
        return aten.relu(z)

    agree(add_relu, graph(model), count=0, spy=True)


def test_a_mutation_before_and_after() -> None:
    def model(x: Any, y: Any) -> Any:
        aten.mul_(y, 2.0)
        a = aten.relu(aten.add(x, y))
        aten.copy_(x, a)
        b = aten.relu(aten.add(x, y))
        aten.mul_(y, 2.0)
        return a, b

    agree(add_relu, graph(model), count=2, spy=True)


def test_a_mutation_of_something_else_is_a_barrier_too() -> None:
    def model(x: Any, y: Any) -> Any:
        other = aten.clone(y)
        z = aten.add(x, y)
        aten.zero_(other)
        return aten.relu(z), other

    agree(add_relu, graph(model), count=0, spy=True)


def test_a_replacement_that_mutates() -> None:
    """New barriers count for the candidates that follow."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = add_relu(pm, spy)
        with Inputs().mode:
            pm.register_replacement(
                lambda x, y: aten.cos(aten.sub(x, y)),
                lambda x, y: aten.add_(aten.clone(x), y),
                [torch.empty(2, 3), torch.empty(2, 3)],
                lambda fn, args, **kw: pm.fwd_only(fn, args, run_functional_passes=False, **kw),
                matcher,
            )
        return matcher

    def model(x: Any, y: Any) -> Any:
        z = aten.add(x, y)
        c = aten.cos(aten.sub(x, y))
        first = aten.relu(z)
        return first, c, aten.relu(aten.add(c, y))

    agree(define, graph(model), spy=True)


def test_regions_known_beforehand_are_used() -> None:
    def build() -> Any:
        gm = graph(lambda x, y: aten.relu(aten.add(x, y)))()
        for i, node in enumerate(gm.graph.nodes):
            node.meta["mutation_region_id"] = i
        return gm

    agree(add_relu, build, count=0, spy=True)


def on_streams(*streams: int | None) -> Any:
    def build() -> Any:
        gm = graph(lambda x, y: aten.relu(aten.add(x, y)))()
        calls = [n for n in gm.graph.nodes if n.op == "call_function"]
        for node, stream in zip(calls, streams, strict=True):
            if stream is not None:
                node.meta["custom"] = {"stream": stream}
        return gm

    return build


@not_older("it knows no streams")
@pytest.mark.parametrize(
    ("streams", "count"),
    [((1, 1), 1), ((1, 2), 0), ((None, 1), 0), ((0, None), 1), ((None, None), 1)],
)
def test_streams(streams: tuple[int | None, ...], count: int) -> None:
    agree(add_relu, on_streams(*streams), count=count, spy=True)


# --- functionalised ops, as vLLM's passes see them ------------------------------------------------


def norm_then_quantise(result: Any, out: Any, x: Any, w: Any, scale: Any) -> Any:
    normed = auto_functionalized(ops.norm.default, result=out, input=x, weight=w, epsilon=1e-5)
    quantised = auto_functionalized(
        ops.quantise.default, result=result, input=normed[1], scale=scale
    )
    return quantised[1]


def norm_quantise(result: Any, out: Any, x: Any, w: Any, scale: Any) -> Any:
    done = auto_functionalized(
        ops.norm_quantise.default, result=result, input=x, weight=w, scale=scale, epsilon=1e-5
    )
    return done[1]


def add_norm_then_quantise(result: Any, x: Any, residual: Any, w: Any, scale: Any) -> Any:
    normed = auto_functionalized(
        ops.add_norm.default, input=x, residual=residual, weight=w, epsilon=1e-5
    )
    quantised = auto_functionalized(
        ops.quantise.default, result=result, input=normed[1], scale=scale
    )
    return quantised[1], normed[2]


def add_norm_quantise(result: Any, x: Any, residual: Any, w: Any, scale: Any) -> Any:
    done = auto_functionalized(
        ops.add_norm_quantise.default,
        result=result,
        input=x,
        weight=w,
        scale=scale,
        residual=residual,
        epsilon=1e-5,
    )
    return done[1], done[2]


FP8 = torch.float8_e4m3fn
FUSIONS = {
    "norm + quantise": (norm_then_quantise, norm_quantise),
    "add norm + quantise": (add_norm_then_quantise, add_norm_quantise),
}


def fusing(search: Any, replace: Any) -> Any:
    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("fusing")
        with Inputs().mode:
            examples = [
                torch.empty(5, 8, dtype=FP8),
                torch.empty(5, 8),
                torch.empty(5, 8),
                torch.empty(8),
                torch.empty(1),
            ]
            pm.register_replacement(search, replace, examples, pm.fwd_only, matcher)
        return matcher

    return define


def functionalised(search: Any, dynamic: bool, epsilon: float = 1e-5, layers: int = 3) -> Any:
    def build() -> Any:
        make = Inputs(s=6)
        rows: Any = "s" if dynamic else 6
        inputs = [make.sizes["s"]] if dynamic else []
        inputs += [make.tensor(rows, 8), make.tensor(rows, 8), make.tensor(8), make.tensor(1)]

        def model(*given: Any) -> Any:
            *sizes, x, residual, w, scale = given
            size = sizes[0] if sizes else 6
            for _ in range(layers):
                result = torch.empty([size, 8], dtype=FP8)
                out = search(result, x, residual, w, scale)
                out, residual = out if isinstance(out, tuple) else (out, residual)
                x = aten._to_copy(out, dtype=F32)
            return x, residual

        gm = trace(model, *inputs)
        gm.graph.eliminate_dead_code()
        for node in gm.graph.nodes:
            if "epsilon" in node.kwargs:
                node.kwargs = {**node.kwargs, "epsilon": epsilon}
        return gm

    return build


@both
@pytest.mark.parametrize("name", FUSIONS)
def test_auto_functionalized(name: str, dynamic: bool) -> None:
    search, replace = FUSIONS[name]
    define = fusing(search, replace)
    agree(define, functionalised(search, dynamic), count=3, spy=True)
    agree(define, functionalised(search, dynamic, epsilon=1e-6), count=0, spy=True)


@both
def test_auto_functionalized_v2(dynamic: bool) -> None:
    """The second form names bases by index; a pattern in that form matches it."""

    def search(result: Any, out: Any, x: Any, w: Any, scale: Any) -> Any:
        normed = auto_functionalized_v2(
            ops.norm.default,
            input=x,
            weight=w,
            epsilon=1e-5,
            _result_base_index=0,
            _all_bases=[out],
        )
        quantised = auto_functionalized_v2(
            ops.quantise.default,
            input=normed[1],
            scale=scale,
            _result_base_index=0,
            _all_bases=[result],
        )
        return quantised[1]

    def replace(result: Any, out: Any, x: Any, w: Any, scale: Any) -> Any:
        done = auto_functionalized_v2(
            ops.norm_quantise.default,
            input=x,
            weight=w,
            scale=scale,
            epsilon=1e-5,
            _result_base_index=0,
            _all_bases=[result],
        )
        return done[1]

    define = fusing(search, replace)
    agree(define, functionalised(search, dynamic), count=3, spy=True)
    agree(define, functionalised(search, dynamic, epsilon=1e-6), count=0, spy=True)
    agree(define, functionalised(norm_then_quantise, dynamic), count=0, spy=True)


def test_eager_input_vals_follow_a_functionalised_op() -> None:
    """A match of one functionalised node hands its recorded inputs to what replaces it."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("eager")
        pattern = pm.CallFunctionVarArgs(torch.ops.higher_order.auto_functionalized)

        @pm.register_graph_pattern(pattern, pass_dict=matcher)
        def handler(match: Any, *args: Any, **kwargs: Any) -> None:
            spy.match(match)

            def decomposed(*flat: Any) -> Any:
                result, x, w = flat
                return None, aten.mul(aten.add(result, x), w)

            match.replace_by_example(
                decomposed,
                [kwargs["result"], kwargs["input"], kwargs["weight"]],
                run_functional_passes=False,
            )

        return matcher

    def build() -> Any:
        make = Inputs()

        def model(out: Any, x: Any, w: Any) -> Any:
            done = auto_functionalized(
                ops.norm.default, result=out, input=x, weight=w, epsilon=1e-5
            )
            return aten.neg(done[1])

        gm = trace(model, make.tensor(6, 8), make.tensor(6, 8), make.tensor(8))
        for node in gm.graph.nodes:
            if node.target is torch.ops.higher_order.auto_functionalized:
                vals = {k: make.tensor(*v.meta["val"].shape) for k, v in node.kwargs.items()
                        if isinstance(v, torch.fx.Node)}  # fmt: skip
                node.meta["eager_input_vals"] = ((node.args[0],), {**vals, "epsilon": 1e-5})
        return gm

    agree(define, build, spy=True)
