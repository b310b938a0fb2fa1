"""The comparison itself: a matcher that does one thing wrong is caught, for each such thing."""

from __future__ import annotations

import builtins
import inspect
import types
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import Disagreement, agree, not_older
from pattern_matcher.rules import register_add_relu
from torch._inductor import pattern_matcher as torch_matcher

aten = torch.ops.aten


def shim(**changes: Any) -> Any:
    """Torch's matcher with some of its names replaced."""
    return types.SimpleNamespace(**{**vars(torch_matcher), **changes})


def with_globals(**changes: Any) -> Any:
    """Torch's matcher whose PatternMatcherPass.apply sees other globals."""
    apply = torch_matcher.PatternMatcherPass.apply
    altered = types.FunctionType(
        apply.__code__, {**vars(torch_matcher), **changes}, closure=apply.__closure__
    )
    made = type("PatternMatcherPass", (torch_matcher.PatternMatcherPass,), {"apply": altered})
    return shim(PatternMatcherPass=made)


def after(change: Any) -> Any:
    """Torch's matcher that spoils the graph afterwards."""

    def apply(self: Any, gm: Any) -> int:
        count = torch_matcher.PatternMatcherPass.apply(self, gm)
        change(gm.graph)
        return count

    made = type("PatternMatcherPass", (torch_matcher.PatternMatcherPass,), {"apply": apply})
    return shim(PatternMatcherPass=made)


def replace_add_relu(pm: Any) -> Any:
    matcher = pm.PatternMatcherPass("test")
    return register_add_relu(pm, matcher)


def two_sites() -> Any:
    def model(x: Any, y: Any) -> Any:
        a = aten.relu(aten.add(x, y))
        return aten.relu(aten.add(a, y))

    return trace(model, *vectors(2))


def dynamic_sites() -> Any:
    make = Inputs(s=6)

    def model(s: Any, x: Any, y: Any) -> Any:
        return aten.relu(aten.add(x, y)).view(s * 8)

    return trace(model, make.sizes["s"], make.tensor("s", 8), make.tensor("s", 8))


def _fresh(value: torch.Tensor, **changes: Any) -> torch.Tensor:
    with value.fake_mode:
        return torch.empty_strided(
            changes.get("shape", value.shape),
            changes.get("stride", value.stride()),
            dtype=changes.get("dtype", value.dtype),
        )


def _on_new_nodes(change: Any) -> Any:
    def spoil(graph: Any) -> None:
        for node in graph.find_nodes(op="call_function", target=aten.sigmoid.default):
            change(node)

    return spoil


def _set_val(**changes: Any) -> Any:
    return _on_new_nodes(lambda n: n.meta.__setitem__("val", _fresh(n.meta["val"], **changes)))


def _swap_order(graph: Any) -> None:
    placeholders = graph.find_nodes(op="placeholder")
    placeholders[0].prepend(placeholders[1])


SPOILT = {
    "wrong stride": (_set_val(stride=(1, 4)), "meta/val"),
    "wrong dtype": (_set_val(dtype=torch.float16), "meta/val"),
    "no stack trace": (_on_new_nodes(lambda n: n.meta.pop("stack_trace")), "meta/stack_trace"),
    "no original_aten": (
        _on_new_nodes(lambda n: n.meta.pop("original_aten")),
        "meta/original_aten",
    ),
    "an extra key": (_on_new_nodes(lambda n: n.meta.update(recompute=1)), "meta/recompute"),
    "another literal": (
        _on_new_nodes(lambda n: setattr(n, "kwargs", {"memory_format": None})),
        "kwargs",
    ),
    "another operand": (
        _on_new_nodes(lambda n: setattr(n, "args", (n.args[0].args[1],))),
        "users",
    ),
    "another order": (_swap_order, "args"),
    "a node left over": (
        lambda g: g.call_function(aten.relu.default, (next(iter(g.nodes)),)),
        "users",
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=not_older("new nodes have none")) if "trace" in name else name
        for name in SPOILT
    ],
)
def test_a_spoilt_graph_is_caught(name: str) -> None:
    change, where = SPOILT[name]
    with pytest.raises(Disagreement, match=where):
        agree(replace_add_relu, two_sites, count=2, pm=after(change))


def test_torch_agrees_with_itself() -> None:
    agree(replace_add_relu, two_sites, count=2, pm=torch_matcher)
    agree(replace_add_relu, dynamic_sites, count=1, pm=torch_matcher)


def test_shared_storage_is_caught() -> None:
    def share(graph: Any) -> None:
        first, second = graph.find_nodes(op="call_function", target=aten.sigmoid.default)
        second.meta["val"] = first.meta["val"]

    with pytest.raises(Disagreement, match="storage"):
        agree(replace_add_relu, two_sites, count=2, pm=after(share))


def test_a_baked_symbolic_size_is_caught() -> None:
    def bake(graph: Any) -> None:
        (node,) = graph.find_nodes(op="call_function", target=aten.sigmoid.default)
        node.meta["val"] = _fresh(node.meta["val"], shape=(6, 8), stride=(8, 1))

    with pytest.raises(Disagreement, match="meta/val"):
        agree(replace_add_relu, dynamic_sites, count=1, pm=after(bake))


def test_a_wrong_count_is_caught() -> None:
    def apply(self: Any, gm: Any) -> int:
        return torch_matcher.PatternMatcherPass.apply(self, gm) + 1

    wrong = type("PatternMatcherPass", (torch_matcher.PatternMatcherPass,), {"apply": apply})
    with pytest.raises(Disagreement, match="count: 3 instead of 2"):
        agree(replace_add_relu, two_sites, count=2, pm=shim(PatternMatcherPass=wrong))


def test_candidates_in_the_wrong_order_are_caught() -> None:
    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("test")

        @pm.register_graph_pattern(pm.CallFunction(aten.relu.default, pm.Arg()), pass_dict=matcher)
        def handler(match: Any, x: Any) -> None:
            spy.match(match)

        return matcher

    forward = with_globals(sorted=lambda nodes, reverse: builtins.sorted(nodes))
    with pytest.raises(Disagreement, match="user code saw, note 0"):
        agree(define, two_sites, count=2, spy=True, pm=forward)


@pytest.mark.skipif(
    "match_node_meta" in inspect.signature(torch_matcher.fx_to_pattern).parameters,
    reason="this torch checks a match by a trace although a pattern was given",
)
def test_a_literal_taken_as_a_wildcard_is_caught() -> None:
    def define(pm: Any) -> Any:
        matcher = pm.PatternMatcherPass("test")
        with Inputs().mode:
            pm.register_replacement(
                lambda x: aten.relu(aten.mul(x, 2.0)),
                lambda x: aten.sigmoid(x),
                [torch.empty(2, 3)],
                pm.fwd_only,
                matcher,
            )
        return matcher

    def blind(search: Any, replace: Any, inputs: Any, trace_fn: Any, *rest: Any) -> Any:
        pattern = torch_matcher.gen_pattern(search, inputs, trace_fn)
        return torch_matcher.register_replacement(
            search, replace, inputs, trace_fn, *rest, search_fn_pattern=pattern
        )

    def build() -> Any:
        return trace(lambda x: aten.relu(aten.mul(x, 3.0)), *vectors(1))

    with pytest.raises(Disagreement, match="count: 1 instead of 0"):
        agree(define, build, count=0, pm=shim(register_replacement=blind))


def test_a_match_across_a_mutation_is_caught() -> None:
    def build() -> Any:
        def model(x: Any, y: Any) -> Any:
            z = aten.add(x, y)
            aten.add_(y, 1.0)
            return aten.relu(z)

        return trace(model, *vectors(2))

    blind = with_globals(get_mutation_region_id=lambda graph, node: 0)
    with pytest.raises(Disagreement, match="count: 1 instead of 0"):
        agree(replace_add_relu, build, count=0, pm=blind)


def test_a_swallowed_error_is_caught() -> None:
    def define(pm: Any) -> Any:
        matcher = pm.PatternMatcherPass("test")

        @pm.register_graph_pattern(pm.CallFunction(aten.relu.default, pm.Arg()), pass_dict=matcher)
        def handler(match: Any, x: Any) -> None:
            raise KeyError("mine")

        return matcher

    def apply(self: Any, gm: Any) -> int:
        try:
            return torch_matcher.PatternMatcherPass.apply(self, gm)
        except KeyError:
            return 0

    quiet = type("PatternMatcherPass", (torch_matcher.PatternMatcherPass,), {"apply": apply})
    with pytest.raises(Disagreement, match="error: None instead of"):
        agree(define, two_sites, error=("KeyError", "mine"), pm=shim(PatternMatcherPass=quiet))


def test_a_test_with_a_wrong_expectation_is_caught() -> None:
    with pytest.raises(ValueError, match="counts 2, not 1: wrong test"):
        agree(replace_add_relu, two_sites, count=1, pm=torch_matcher)
    with pytest.raises(ValueError, match="raised None, not"):
        agree(replace_add_relu, two_sites, error=("KeyError", ""), pm=torch_matcher)
