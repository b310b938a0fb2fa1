"""Patterns, entries and passes that were used may be copied and pickled, as torch's."""

from __future__ import annotations

import copy
import logging
import operator
import pickle
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import trace, vectors
from pattern_matcher.harness import not_older
from torch._inductor import pattern_matcher as torch_matcher

from spfast import pattern_matcher as pm
from spfast.integrations import inductor

aten = torch.ops.aten


def used(matcher: Any, kind: Any) -> Any:
    """A pass that has replaced something."""
    rules = kind("used")
    matcher.register_replacement(
        lambda x: aten.relu(x), lambda x: aten.sigmoid(x), vectors(1), matcher.fwd_only, rules
    )
    assert applied(rules) == 2
    return rules


def applied(rules: Any) -> int:
    count = rules.apply(trace(lambda x: aten.relu(aten.relu(x)), *vectors(1)))
    assert isinstance(count, int)
    return count


@pytest.fixture(params=["our pass", "torch's pass, patched"])
def rules(request: Any) -> Any:
    if request.param == "our pass":
        yield used(pm, pm.PatternMatcherPass)
    else:
        with inductor.patched():
            yield used(torch_matcher, torch_matcher.PatternMatcherPass)


def test_a_pass_that_was_used_is_copied(rules: Any) -> None:
    for copied in (copy.copy(rules), copy.deepcopy(rules), copy.deepcopy(copy.deepcopy(rules))):
        assert applied(copied) == 2
    copied = copy.deepcopy(rules)
    copied.patterns.clear()
    assert applied(rules) == 2


def test_a_pattern_that_was_used_is_pickled() -> None:
    pattern = pm.CallFunction(operator.neg, pm.KeywordArg("x"))  # operators cannot be pickled
    gm = torch.fx.symbolic_trace(lambda x: -x)
    rules = pm.PatternMatcherPass()

    @pm.register_graph_pattern(pattern, pass_dict=rules)  # type: ignore[untyped-decorator]
    def handler(match: Any, x: Any) -> None: ...

    assert rules.apply(gm) == 1
    text = pickle.dumps(pattern)
    assert b"spfast" not in text.replace(b"_spfast", b""), "it loads where spfast is not"
    again = pickle.loads(text)
    node = next(n for n in gm.graph.nodes if n.op == "call_function")
    assert repr(again) == repr(pattern) and again.match(node)


def test_a_shallow_copy_is_a_pattern_of_its_own() -> None:
    """It may be changed afterwards."""
    pattern = pm.CallFunction(aten.neg.default, pm.CallFunction(aten.relu.default, pm.Arg()))
    found = []
    for matcher in (torch_matcher.PatternMatcherPass, pm.PatternMatcherPass):
        counts = []
        for users in (1, 2):
            own = copy.copy(pattern)
            own.args = (pm.CallFunction(aten.relu.default, pm.Arg(), _users=users),)
            own.flat_args_kwargs = own.flatten(own.args, own.kwargs)
            rules = matcher()
            pm.register_graph_pattern(own, pass_dict=rules)(lambda match, x: None)
            gm = trace(lambda x: aten.add(aten.neg(r := aten.relu(x)), r), *vectors(1))
            counts.append(rules.apply(gm))
            pattern = own
        found.append(counts)
    assert found[0] == found[1] == [0, 1]


def test_an_entry_that_cannot_be_pickled_says_what_torch_says() -> None:
    errors = []
    for rules in (used(pm, pm.PatternMatcherPass), used(torch_matcher, pm.PatternMatcherPass)):
        (entry,) = next(iter(rules.patterns.values()))
        entry.pattern.fns, entry.pattern.fns_set = [operator.neg], {operator.neg}
        with pytest.raises((AttributeError, pickle.PicklingError)) as error:
            pickle.dumps(entry)
        errors.append(str(error.value))
    assert errors[0] == errors[1] and "check_fn" in errors[0]


def test_an_entry_whose_check_was_replaced_is_asked_anew() -> None:
    for matcher in (pm, torch_matcher):
        rules = used(matcher, pm.PatternMatcherPass)
        (entry,) = next(iter(rules.patterns.values()))
        entry.extra_check = lambda match: False
        assert applied(rules) == 0


@not_older("it logs no node for all")
@pytest.mark.parametrize("asked", ["relu", "relu_1", "all", "none"])
def test_the_log_is_torchs(asked: str, monkeypatch: Any, caplog: Any) -> None:
    """What matched at a node, and what did not and why."""
    monkeypatch.setenv("TORCHINDUCTOR_PATTERN_MATCH_DEBUG", asked)
    monkeypatch.setattr(torch_matcher.log, "propagate", True)
    caplog.set_level(logging.INFO, logger=torch_matcher.log.name)

    def lines(matcher: Any) -> list[str]:
        rules = matcher.PatternMatcherPass("logged")
        with torch.no_grad():
            for shape in ((4, 8), (3, 3)):
                matcher.register_replacement(
                    lambda x: aten.relu(aten.mul(x, 2.0)),
                    lambda x: aten.sigmoid(x),
                    [torch.empty(shape)],
                    matcher.fwd_only,
                    rules,
                    skip_duplicates=True,
                )
            matcher.register_replacement(
                lambda x, y: aten.neg(aten.mm(x, y)),
                lambda x, y: aten.sin(x),
                [torch.empty(4, 4), torch.empty(4, 4)],
                matcher.fwd_only,
                rules,
            )
        caplog.clear()
        rules.apply(
            trace(
                lambda x: (aten.relu(aten.mul(x, 2.0)), aten.relu(aten.mul(x, 3.0)), aten.relu(x)),
                *vectors(1),
            )
        )
        return [record.getMessage() for record in caplog.records]

    wanted = lines(torch_matcher)
    assert lines(pm) == wanted
    assert bool(wanted) is (asked != "none")


def test_a_trace_that_does_not_fit_is_logged_as_in_torch(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch_matcher.log, "propagate", True)
    caplog.set_level(logging.INFO, logger=torch_matcher.log.name)

    def search(x: Any) -> Any:
        return aten.relu(aten.view(x, [2, 16]))

    def lines(matcher: Any) -> list[str]:
        rules = matcher.PatternMatcherPass("logged")
        matcher.register_replacement(
            search, lambda x: aten.neg(x), vectors(1, 4, 8), matcher.fwd_only, rules
        )
        caplog.clear()
        gm = trace(
            lambda x: [aten.relu(aten.view(x, [2, 15])) for _ in range(2)], *vectors(1, 5, 6)
        )
        assert rules.apply(gm) == 0
        return [r.getMessage() for r in caplog.records if "shape mismatch" in r.getMessage()]

    wanted = lines(torch_matcher)
    assert lines(pm) == wanted and len(wanted) == 2
