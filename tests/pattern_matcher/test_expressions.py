"""Each kind of pattern expression, where it matches and where it must not."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.fx as fx
from pattern_matcher.expression_cases import CASES, Pattern, add
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import agree

aten = torch.ops.aten


def watching(pattern: Pattern) -> Any:
    """A pass that notes each match of the pattern and rewrites nothing."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("watching")

        def check(match: Any) -> bool:
            spy.match(match)
            return False

        @pm.register_graph_pattern(pattern(pm), extra_check=check, pass_dict=matcher)
        def handler(match: Any, *args: Any, **kwargs: Any) -> None:
            raise AssertionError("never called")

        return matcher

    return define


def seen(pattern: Pattern, model: Any, *inputs: Any) -> list[Any]:
    """What user code sees of the pattern's matches in the graph of a model: the same from both
    matchers.
    """
    make = inputs[0] if inputs and callable(inputs[0]) else lambda: inputs or vectors(2)
    return agree(watching(pattern), lambda: trace(model, *make()), count=0, spy=True).notes


@pytest.mark.parametrize("name", CASES)
def test_matches_where_it_should(name: str) -> None:
    pattern, model, _ = CASES[name]
    assert seen(pattern, model)


@pytest.mark.parametrize("name", CASES)
def test_does_not_match_elsewhere(name: str) -> None:
    pattern, _, model = CASES[name]
    assert seen(pattern, model) == []


def _methods(spoil: bool) -> fx.GraphModule:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)
            self.other = torch.nn.ReLU() if not spoil else torch.nn.GELU()

        def forward(self, x: Any) -> Any:
            x = self.other(self.linear(x))
            return x.transpose(0, 1).reshape(8, -1) if not spoil else x.flatten().reshape(8, -1)

    return fx.symbolic_trace(Model())


METHODS: dict[str, Pattern] = {
    "CallMethod": lambda pm: pm.CallMethod(
        "reshape", pm.CallMethod("transpose", pm.Arg(), 0, pm.Arg()), pm.Ignored(), -1
    ),
    "CallMethodVarArgs": lambda pm: pm.CallMethodVarArgs("transpose"),
    "CallModule": lambda pm: pm.CallModule(
        torch.nn.ReLU, pm.CallModule(torch.nn.Linear, pm.KeywordArg("x"))
    ),
    "CallModuleVarArgs": lambda pm: pm.CallModuleVarArgs(torch.nn.ReLU),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_modules(name: str) -> None:
    define = watching(METHODS[name])
    assert agree(define, lambda: _methods(False), count=0, spy=True).notes
    assert agree(define, lambda: _methods(True), count=0, spy=True).notes == []


def test_symbolic_sizes_as_operands() -> None:
    def inputs() -> list[Any]:
        make = Inputs(s=6, t=5)
        return [make.sizes["s"], make.sizes["t"], make.tensor("s", 8), make.tensor("t", 8)]

    def model(s: Any, t: Any, x: Any, y: Any) -> Any:
        return aten.view(x, [s * 8]), aten.expand(aten.sum(y, [1], True), [t, 4])

    def view(pm: Any) -> Any:
        return pm.CallFunction(aten.view.default, pm.Arg(), [pm.KeywordArg("n")])

    def literal(pm: Any) -> Any:
        return pm.CallFunction(aten.expand.default, pm.Arg(), [pm.KeywordArg("t"), 4])

    def baked(pm: Any) -> Any:
        return pm.CallFunction(aten.expand.default, pm.Arg(), [5, 4])

    def product(pm: Any) -> Any:
        size = pm.CallFunction(operator.mul, pm.KeywordArg("s"), 8)
        return pm.CallFunction(aten.view.default, pm.Arg(), [size])

    for pattern, matches in ((view, 1), (literal, 1), (baked, 0), (product, 1)):
        assert len(seen(pattern, model, inputs)) == matches


def test_a_pattern_used_by_itself() -> None:
    """``pattern.match(node)`` without a pass, as people's own passes call it."""
    from pattern_matcher.harness import Spy, subject
    from torch._inductor import pattern_matcher as torch_matcher

    gm = trace(lambda x, y: aten.relu(aten.add(x, y)), *vectors(2))
    relu = gm.graph.find_nodes(op="call_function", target=aten.relu.default)[0]
    seen_by = []
    for pm in (torch_matcher, subject()):
        spy = Spy()
        found = pm.CallFunction(aten.relu.default, add(pm, pm.Arg(), pm.KeywordArg("y")))
        match = found.match(relu)
        assert pm.is_match(match)
        spy.match(match)
        failed = pm.CallFunction(aten.relu.default, add(pm, pm.Arg(), 3)).match(relu)
        assert not pm.is_match(failed) and isinstance(failed, pm.FailedMatch)
        spy.note(str(failed).replace("torch._inductor.pattern_matcher", ""))
        seen_by.append(spy.notes)
    assert seen_by[0] == seen_by[1]
