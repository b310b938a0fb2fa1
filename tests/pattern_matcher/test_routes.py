"""Which route a pattern takes and why, what is traced how often, and what describe() says."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import trace, vectors
from pattern_matcher.harness import not_older

from spfast import pattern_matcher as pm
from spfast.pattern_matcher.lowering import route_of

aten = torch.ops.aten


def rules(search: Any, replace: Any, inputs: int = 1, **options: Any) -> Any:
    matcher = pm.PatternMatcherPass("routes")
    pm.register_replacement(search, replace, vectors(inputs), pm.fwd_only, matcher, **options)
    return matcher


def test_a_subclass_is_left_to_torch_and_the_reason_is_told() -> None:
    class Even(pm.KeywordArg):
        def _match(self, node: Any, ctx: Any) -> Any:
            return super()._match(node, ctx) if node % 2 == 0 else pm.FailedMatch("odd")

    matcher = pm.PatternMatcherPass("mine")
    seen = []

    @pm.register_graph_pattern(
        pm.CallFunction(aten.sum.dim_IntList, pm.KeywordArg("x"), [Even("dim")]), pass_dict=matcher
    )
    def handler(match: Any, x: Any, dim: int) -> None:
        seen.append(dim)

    gm = trace(lambda x: (aten.sum(x, [0]), aten.sum(x, [1])), *vectors(1))
    assert matcher.apply(gm) == 1 and seen == [0]
    text = matcher.describe()
    assert "mine: 1 patterns, 0 matched natively" in text
    assert "handler: torch's object (Even is not one of torch's own expressions)" in text


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (pm.CallFunction(aten.relu.default, pm.Arg(), _users=1.5), "_users=1.5 is not a number"),
        pytest.param(
            pm.RepeatedExpr(pm.CallFunctionVarArgs(aten.relu.default)),
            "CallFunctionVarArgs among several outputs",
            marks=not_older("RepeatedExpr visits other nodes"),
        ),
        (
            pm.CallFunction(aten.view.default, pm.Arg(), [slice(1), {1, 2}, range(2)]),
            "",
        ),
    ],
)
def test_reasons(pattern: Any, reason: str) -> None:
    route = route_of(pattern)
    assert route.reason == reason and (route.program is None) is bool(reason)
    assert route_of(pattern) is route


@not_older("it traces at each match")
def test_identical_sites_are_traced_once() -> None:
    calls: list[str] = []

    def search(x: Any) -> Any:
        calls.append("search")
        return aten.neg(aten.relu(x))

    def replace(x: Any) -> Any:
        calls.append("replace")
        return aten.sigmoid(x)

    # Counting is an effect, for which the functions would be traced each time.
    matcher = rules(search, replace, trace="once")
    registered = calls.count("search")

    def model(x: Any) -> Any:
        for _ in range(6):
            x = aten.sin(aten.neg(aten.relu(x)))
        return x

    assert matcher.apply(trace(model, *vectors(1))) == 6
    assert calls.count("search") == registered + 1
    assert calls.count("replace") == 1
    assert matcher.apply(trace(model, *vectors(1))) == 6
    assert calls.count("search") == registered + 1, "a further graph of the same sizes"
    assert calls.count("replace") == 1
    assert "1 traced" in matcher.describe() and "0 checked by torch" in matcher.describe()


def test_other_sizes_are_traced_for_themselves() -> None:
    def narrow(x: Any) -> Any:
        return aten.neg(aten.relu(aten.slice(x, 0, 0, 1)))

    matcher = rules(lambda x: aten.neg(aten.relu(x)), lambda x: aten.mul(x, float(x.shape[0])))

    def model(x: Any) -> Any:
        return aten.neg(aten.relu(x)), narrow(x)

    gm = trace(model, *vectors(1))
    rows = next(n for n in gm.graph.nodes if n.op == "placeholder").meta["val"].shape[0]
    assert matcher.apply(gm) == 2
    factors = sorted(n.args[1] for n in gm.graph.nodes if n.target is aten.mul.Tensor)
    assert factors == sorted([1.0, float(rows)])
    assert "2 traced" in matcher.describe()


def test_created_values_share_no_storage() -> None:
    matcher = rules(lambda x: aten.neg(aten.relu(x)), lambda x: aten.sin(aten.sigmoid(x)))

    def model(x: Any) -> Any:
        return aten.neg(aten.relu(x)), aten.neg(aten.relu(aten.cos(x)))

    gm = trace(model, *vectors(1))
    assert matcher.apply(gm) == 2
    created = [n for n in gm.graph.nodes if n.target in (aten.sin.default, aten.sigmoid.default)]
    storages = {n.meta["val"].untyped_storage()._cdata for n in created}
    assert len(created) == len(storages) == 4


def test_an_error_in_the_replacement_leaves_the_graph() -> None:
    def fails(x: Any) -> Any:
        raise ValueError("no such replacement")

    matcher = rules(lambda x: aten.neg(aten.relu(x)), fails)
    gm = trace(lambda x: aten.neg(aten.relu(x)), *vectors(1))
    before = str(gm.graph)
    with pytest.raises(ValueError, match="no such replacement"):
        matcher.apply(gm)
    assert str(gm.graph) == before


@not_older("its own entry replaces")
def test_a_replacement_with_another_number_of_outputs_leaves_the_graph() -> None:
    def search(x: Any) -> Any:
        r = aten.relu(x)
        return aten.neg(r), aten.sin(r)

    matcher = rules(search, lambda x: (aten.cos(x), aten.tan(x), x))
    gm = trace(search, *vectors(1))
    before = str(gm.graph)
    with pytest.raises(AssertionError, match="returns 3 values for 2 outputs"):
        matcher.apply(gm)
    assert str(gm.graph) == before


@not_older("its own entry replaces")
def test_entries_of_torchs_own_registration_are_adopted() -> None:
    from torch._inductor import pattern_matcher as torch_matcher

    matcher = pm.PatternMatcherPass("adopted")
    torch_matcher.register_replacement(
        lambda x: aten.neg(aten.relu(x)), lambda x: aten.sin(x), vectors(1), pm.fwd_only, matcher
    )
    gm = trace(lambda x: aten.neg(aten.relu(aten.neg(aten.relu(x)))), *vectors(1))
    assert matcher.apply(gm) == 2
    assert "1 traced" in matcher.describe()
    # Torch's own apply goes on with torch's entry.
    gm = trace(lambda x: aten.neg(aten.relu(x)), *vectors(1))
    assert torch_matcher.PatternMatcherPass.apply(matcher, gm) == 1


def test_our_entries_serve_torchs_own_apply() -> None:
    from torch._inductor import pattern_matcher as torch_matcher

    matcher = rules(lambda x: aten.neg(aten.relu(x)), lambda x: aten.sin(x))
    gm = trace(lambda x: aten.neg(aten.relu(aten.neg(aten.relu(x)))), *vectors(1))
    assert torch_matcher.PatternMatcherPass.apply(matcher, gm) == 2
    assert [n.target for n in gm.graph.nodes][1:3] == [aten.sin.default] * 2
    assert "1 traced, 1 reused" in matcher.describe()


def test_a_handler_may_register_patterns_while_the_pass_runs() -> None:
    matcher = pm.PatternMatcherPass("growing")
    seen: list[str] = []

    @pm.register_graph_pattern(pm.CallFunction(aten.relu.default, pm.Arg()), pass_dict=matcher)
    def first(match: Any, x: Any) -> None:
        seen.append("first")
        pattern = pm.CallFunction(aten.relu.default, pm.Arg())
        pm.register_graph_pattern(pattern, pass_dict=matcher, prepend=True)(
            lambda match, x: seen.append("late")
        )

    gm = trace(lambda x: aten.relu(aten.neg(aten.relu(x))), *vectors(1))
    assert matcher.apply(gm) == 2
    assert seen == ["first", "first"], "a run sees what was registered when it began"


@pytest.mark.parametrize("switch", ["1", "0"])
def test_the_switch_in_the_environment(switch: str) -> None:
    show = (
        "import spfast, torch._inductor.pattern_matcher as stock;"
        "print(stock.PatternMatcherPass.apply.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", show],
        env={**os.environ, "SPFAST_PATTERN_MATCHER": switch},
        capture_output=True,
        text=True,
        check=True,
    )
    ours, torchs = "spfast.integrations.inductor", "torch._inductor.pattern_matcher"
    assert done.stdout.split() == [ours if switch == "1" else torchs]
