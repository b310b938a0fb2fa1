"""What only some torches have: natively matched, and as that torch does it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pattern_matcher.graphs import trace, vectors
from pattern_matcher.harness import agree
from torch._inductor import pattern_matcher as torch_matcher

from spfast.pattern_matcher.lowering import route_of

aten = torch.ops.aten

keywords = pytest.mark.skipif(
    not hasattr(torch_matcher, "_has_undeclared_non_default_kwarg"), reason="since torch 2.15"
)
dims = pytest.mark.skipif(not hasattr(torch_matcher, "CanonicalDims"), reason="since torch 2.15")
attributes = pytest.mark.skipif(not hasattr(torch_matcher, "GetAttr"), reason="since torch 2.14")
pools = pytest.mark.skipif(
    not hasattr(torch_matcher, "_common_custom_context"), reason="since torch 2.14"
)


def _handled(pattern: Any) -> Any:
    def define(pm: Any, spy: Any) -> Any:
        rules = pm.PatternMatcherPass("versions")
        pm.register_graph_pattern(pattern(), pass_dict=rules)(lambda match, **_: spy.match(match))
        return rules

    return define


@keywords
@pytest.mark.parametrize(("alpha", "count"), [(1, 1), (2, 0), (1.0, 1)])
def test_undeclared_keywords(alpha: Any, count: int) -> None:
    def pattern() -> Any:
        arguments = (torch_matcher.KeywordArg("x"), torch_matcher.KeywordArg("y"))
        return torch_matcher.CallFunction(aten.add.Tensor, *arguments)

    def build() -> Any:
        gm = trace(lambda x, y: aten.add(x, y), *vectors(2))
        next(n for n in gm.graph.nodes if n.target is aten.add.Tensor).kwargs = {"alpha": alpha}
        return gm

    agree(_handled(pattern), build, count=count, spy=True)
    assert route_of(pattern()).program is not None


@dims
@pytest.mark.parametrize(("given", "count"), [([-1], 1), ([1], 1), ([0], 0), ([-3], 0), ([5], 0)])
def test_dims_are_counted_from_either_end(given: list[int], count: int) -> None:
    def pattern() -> Any:
        wanted = torch_matcher.CanonicalDims([1], 2)
        return torch_matcher.CallFunction(
            aten.sum.dim_IntList, torch_matcher.KeywordArg("x"), wanted
        )

    def build() -> Any:
        gm = trace(lambda x: aten.sum(x, [1]), *vectors(1))
        node = next(n for n in gm.graph.nodes if n.target is aten.sum.dim_IntList)
        node.args = (node.args[0], given)
        return gm

    agree(_handled(pattern), build, count=count, spy=True)
    assert route_of(pattern()).program is not None


@dims
@pytest.mark.parametrize("size", [6, 7])
def test_the_exact_pattern_compares_sizes(size: int) -> None:
    """Of two views that the general pattern takes, those that are the search function's own."""

    def define(pm: Any) -> Any:
        rules = pm.PatternMatcherPass("sizes")
        pm.register_replacement(
            lambda x: aten.neg(aten.view(x, [x.shape[1], x.shape[0]])),
            lambda x: aten.sin(aten.permute(x, [1, 0])),
            vectors(1, 4, 6),
            pm.fwd_only,
            rules,
        )
        return rules

    def build() -> Any:
        def model(x: Any) -> Any:
            return [aten.neg(aten.view(x, [a, b])) for a, b in ((size, 4), (4, size), (-1, 4))]

        return trace(model, *vectors(1, 4, size))

    ours = agree(define, build, count=2)
    assert "torch's object" not in ours.routes


@attributes
@pytest.mark.parametrize(("value", "count"), [(2.0, 1), (3.0, 0)])
def test_constants_are_compared_by_value(value: float, count: int) -> None:
    def pattern() -> Any:
        constant = torch_matcher.GetAttr(torch.full((8,), 2.0))
        return torch_matcher.CallFunction(aten.mul.Tensor, torch_matcher.KeywordArg("x"), constant)

    def build() -> Any:
        gm = trace(lambda x, y: aten.mul(x, y), *vectors(2))
        gm.register_buffer("weight", torch.full((8,), value))
        node = next(n for n in gm.graph.nodes if n.target is aten.mul.Tensor)
        with gm.graph.inserting_before(node):
            node.args = (node.args[0], gm.graph.get_attr("weight"))
        return gm

    agree(_handled(pattern), build, count=count, spy=True)
    assert route_of(pattern()).program is not None


@pools
@pytest.mark.parametrize(
    ("places", "count"),
    [
        (({"mempool": 1, "mempool_device": 0}, {"mempool": 1, "mempool_device": 0}), 1),
        (({"mempool": 1, "mempool_device": 0}, {"mempool": 2, "mempool_device": 0}), 0),
        (({"mempool": 1, "mempool_device": 0}, {}), 0),
        (({"stream": 3, "note": 1}, {"stream": 3}), 1),
    ],
)
def test_new_nodes_run_where_the_old_ones_did(places: Any, count: int) -> None:
    def define(pm: Any) -> Any:
        rules = pm.PatternMatcherPass("pools")
        pm.register_replacement(
            lambda x: aten.neg(aten.relu(x)),
            lambda x: aten.sin(aten.cos(x)),
            vectors(1),
            pm.fwd_only,
            rules,
        )
        return rules

    def build() -> Any:
        gm = trace(lambda x: aten.tan(aten.neg(aten.relu(x))), *vectors(1))
        for target, place in zip((aten.relu.default, aten.neg.default), places, strict=True):
            next(n for n in gm.graph.nodes if n.target is target).meta["custom"] = dict(place)
        return gm

    ours = agree(define, build, count=count)
    made = [n for n in ours.graph_module.graph.nodes if n.target is aten.cos.default]
    assert all(n.meta["custom"].items() >= places[1].items() for n in made)
    assert len(made) == count
