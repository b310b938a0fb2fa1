"""The names of torch's module, the registry of a pass, and what a pass tells of its routes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import not_older
from pattern_matcher.rules import register_add_relu
from torch._dynamo.utils import counters
from torch._inductor import pattern_matcher as torch_matcher

from spfast import pattern_matcher as pm

aten = torch.ops.aten


def rules(**options: Any) -> Any:
    matcher = pm.PatternMatcherPass("surface", **options)
    return register_add_relu(pm, matcher)


def test_every_name_of_torchs_module_is_there() -> None:
    missing = [name for name in dir(torch_matcher) if not hasattr(pm, name)]
    assert missing == []


def test_private_names_that_passes_use_are_there() -> None:
    for name in ("_return_true", "_seen_patterns", "_transfer_meta", "_TargetArgsExpr"):
        assert getattr(pm, name) is getattr(torch_matcher, name)


def test_expressions_are_torchs_own_classes() -> None:
    """So that isinstance in somebody's pass holds, whichever module it imported."""
    for name in ("Arg", "KeywordArg", "CallFunction", "MultiOutputPattern", "Match", "ListOf"):
        assert issubclass(getattr(pm, name), getattr(torch_matcher, name))
    assert issubclass(pm.PatternMatcherPass, torch_matcher.PatternMatcherPass)
    assert pm.MULTIPLE is torch_matcher.MULTIPLE


@not_older("it takes fewer arguments")
def test_signatures() -> None:
    for name in ("register_replacement", "fwd_only", "gen_pattern", "register_graph_pattern"):
        ours = inspect.signature(getattr(pm, name)).parameters
        theirs = inspect.signature(getattr(torch_matcher, name)).parameters
        own = {"trace"} if name == "register_replacement" else set()
        assert [p for p in ours if p not in own] == list(theirs), name
        assert all(ours[p].kind is inspect.Parameter.KEYWORD_ONLY for p in own)
        kinds = [(p.kind, p.default is p.empty) for p in ours.values() if p.name not in own]
        assert kinds == [(p.kind, p.default is p.empty) for p in theirs.values()], name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(pm, "no_such_" + "name")


def test_the_registry_of_a_pass() -> None:
    matcher = rules()
    key = ("call_function", aten.relu.default)
    assert list(matcher.patterns) == [key]
    assert len(matcher[key]) == 1
    assert matcher[("call_function", aten.neg.default)] == []
    assert matcher.pass_name == "surface"
    assert len(matcher.seen_patterns) == 1
    matcher.clear()
    assert not matcher.patterns


def test_removing_a_pattern_by_hand() -> None:
    matcher = rules()
    matcher.patterns[("call_function", aten.relu.default)].clear()
    gm = trace(lambda x, y: aten.relu(aten.add(x, y)), *vectors(2))
    assert matcher.apply(gm) == 0


def test_a_torch_pass_takes_our_registration() -> None:
    """A registry that torch made, filled by ours, applied by torch."""
    matcher = torch_matcher.PatternMatcherPass("mixed")
    register_add_relu(pm, matcher)
    gm = trace(lambda x, y: aten.relu(aten.add(x, y)), *vectors(2))
    assert matcher.apply(gm) == 1
    assert [n.target for n in gm.graph.nodes if n.op == "call_function"] == [
        aten.mul.Tensor,
        aten.sigmoid.default,
    ]


def test_our_pass_takes_torchs_registration() -> None:
    matcher = pm.PatternMatcherPass("mixed")
    register_add_relu(torch_matcher, matcher)
    gm = trace(lambda x, y: aten.relu(aten.add(x, y)), *vectors(2))
    assert matcher.apply(gm) == 1


def test_describe_names_each_pattern_and_its_route() -> None:
    matcher = rules()

    @pm.register_graph_pattern(pm.CallFunction(aten.neg.default, pm.Arg()), pass_dict=matcher)
    def handler(match: Any, x: Any) -> None:
        return None

    before = matcher.describe()
    gm = trace(lambda x, y: aten.relu(aten.add(x, y)), *vectors(2))
    assert matcher.apply(gm) == 1
    after = matcher.describe()
    assert "surface" in after and "<lambda>" in after and "GraphPatternEntry" in after
    assert before != after


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"argnames": ["left", "right"]},
        {"ignore_types": (int, float)},
        {"scalar_workaround": {"factor": 2.5}},
        {"exclusive_arg_names": ["left"], "argnames": ["left", "right"]},
    ],
)
def test_fx_to_pattern(options: dict[str, Any]) -> None:
    gm = trace(lambda x, y: aten.sum(aten.mul(aten.add(x, y), 2.5), [1], True), *vectors(2))
    ours, theirs = pm.fx_to_pattern(gm, **options), torch_matcher.fx_to_pattern(gm, **options)
    assert repr(ours) == repr(theirs) and ours.pattern_eq(theirs)


def _activated(function: Any) -> tuple[Any, Any]:
    return lambda x, y: aten.relu(function(x, y)), lambda x, y: aten.sigmoid(function(x, y))


@not_older("it takes fewer arguments")
def test_what_the_debug_switch_reports(monkeypatch: Any, caplog: Any) -> None:
    """A warning for each try at a node, and counts by pattern, as torch gives them."""
    monkeypatch.setenv("TORCHINDUCTOR_PATTERN_MATCH_DEBUG", "all")
    monkeypatch.setattr(torch_matcher.log, "propagate", True)
    reports = []
    for matcher_module in (torch_matcher, pm):
        matcher = matcher_module.PatternMatcherPass("debug")
        with Inputs().mode:
            for name, function in (("first", aten.mul), ("second", aten.add)):
                matcher_module.register_replacement(
                    *_activated(function),
                    [torch.empty(2, 3), torch.empty(2, 3)],
                    matcher_module.fwd_only,
                    matcher,
                    pattern_name=name,
                )
        gm = trace(lambda x, y: aten.relu(aten.add(aten.relu(aten.mul(x, y)), y)), *vectors(2))
        caplog.clear()
        counters.clear()
        with caplog.at_level("WARNING", logger=torch_matcher.log.name):
            assert matcher.apply(gm) == 2
        tries = [record.getMessage() for record in caplog.records]
        reports.append((tries, dict(counters["inductor_pattern_matcher_per_pattern"])))
    assert reports[0][1] == reports[1][1] == {"first": 1, "second": 1}
    assert any("Match(" in text for text in reports[0][0])
    assert reports[1][0][0].split(" ")[0] == reports[0][0][0].split(" ")[0]
