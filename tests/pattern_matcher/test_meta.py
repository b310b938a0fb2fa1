"""The metadata of what a replacement puts in: where each key comes from, and that none is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import agree, not_older

aten = torch.ops.aten


def define_rule(search: Any, replace: Any, inputs: int = 2, **options: Any) -> Any:
    def define(pm: Any) -> Any:
        matcher = pm.PatternMatcherPass("meta")
        with Inputs().mode:
            examples = [torch.empty(2, 8) for _ in range(inputs)]
            pm.register_replacement(search, replace, examples, pm.fwd_only, matcher, **options)
        return matcher

    return define


def search(x: Any, y: Any) -> Any:
    return aten.relu(aten.add(x, y))


def replace(x: Any, y: Any) -> Any:
    return aten.sigmoid(aten.mul(aten.neg(x), y))


def build(change: Any = lambda node, i: None, model: Any = None) -> Any:
    def made() -> Any:
        def two(x: Any, y: Any) -> Any:
            return aten.cos(search(search(x, y), y))

        gm = trace(model or two, *vectors(2))
        for i, node in enumerate(gm.graph.nodes):
            change(node, i)
        return gm

    return made


def drop(*keys: str) -> Any:
    return lambda node, i: [node.meta.pop(key, None) for key in keys]


@not_older("new nodes have no stack trace")
def test_all_keys_of_a_capture() -> None:
    outcome = agree(define_rule(search, replace), build(), count=2)
    new = [n for n in outcome.nodes if n["target"] == "aten.sigmoid.default"]
    assert all("meta/stack_trace" in n and "meta/val" in n for n in new)


@pytest.mark.parametrize("keys", [("stack_trace",), ("original_aten", "nn_module_stack"),
("tensor_meta",)])  # fmt: skip
def test_keys_that_the_graph_lacks(keys: tuple[str, ...]) -> None:
    agree(define_rule(search, replace), build(drop(*keys)), count=2)


def test_a_match_of_one_node_hands_all_on() -> None:
    one = define_rule(lambda x: aten.relu(x), lambda x: aten.sigmoid(aten.neg(x)), inputs=1)
    outcome = agree(one, build(), count=2)
    new = [n for n in outcome.nodes if n["target"] == "aten.neg.default"]
    assert all("meta/stack_trace" in n for n in new)


@pytest.mark.parametrize("tag", ["recompute", "ac_graph_id"])
def test_recompute_tags_reach_the_inputs(tag: str) -> None:
    def tagged(node: Any, i: int) -> None:
        if node.target is aten.relu.default:
            node.meta[tag] = 10 + i

    outcome = agree(define_rule(search, replace), build(tagged), count=2)
    new = [n for n in outcome.nodes if n["target"] == "aten.neg.default"]
    assert len(new) == 2 and all(f"meta/{tag}" in n for n in new)


def test_recompute_tags_of_some_matches_only() -> None:
    def tagged(node: Any, i: int) -> None:
        if node.target is aten.relu.default and node.args[0].args[0].op == "placeholder":
            node.meta["recompute"] = 2

    outcome = agree(define_rule(search, replace), build(tagged), count=2)
    assert sum("meta/recompute" in n for n in outcome.nodes) == 3


def test_custom_keys_are_treated_as_in_torch() -> None:
    def custom(node: Any, i: int) -> None:
        node.meta["custom"] = {"layer": i // 2}
        node.meta["partition"] = i
        node.meta["quantization_tag"] = f"tag{i}"

    agree(define_rule(search, replace), build(custom), count=2)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_provenance_tracking(level: int) -> None:
    with torch._inductor.config.patch({"trace.provenance_tracking_level": level}):
        agree(define_rule(search, replace, pattern_name="mine"), build(), count=2)
        agree(define_rule(search, replace), build(), count=2)


def test_values_whose_meta_differs_from_what_the_search_gives() -> None:
    """The output's own stride is not the replacement's: the replacement's value is kept."""

    def strided(node: Any, i: int) -> None:
        if node.target is aten.relu.default:
            val = node.meta["val"]
            with val.fake_mode:
                node.meta["val"] = torch.empty_strided(val.shape, (1, val.shape[0]))

    agree(define_rule(search, replace), build(strided), count=2)


def test_views_in_a_replacement_share_storage_as_when_traced() -> None:
    def viewing(x: Any, y: Any) -> Any:
        flat = aten.mul(x, y).view(-1)
        return flat.view(x.shape)

    agree(define_rule(search, viewing), build(), count=2)


@not_older("it takes val alone")
def test_example_value_instead_of_val() -> None:
    """Dynamo's own graphs call it example_value."""

    def renamed(node: Any, i: int) -> None:
        if "val" in node.meta:
            node.meta["example_value"] = node.meta.pop("val")

    agree(define_rule(search, replace), build(renamed), count=2)


@not_older("it takes val alone")
def test_no_value_at_all_is_torchs_error() -> None:
    agree(define_rule(search, replace), build(drop("val")), error=("KeyError", "example_value"))


def test_unbacked_sizes() -> None:
    """A replacement whose result has a size that depends on data."""

    def data_dependent(x: Any, y: Any) -> Any:
        rows = aten.nonzero(aten.mul(x, y))
        return aten.add(x, aten.sum(rows))

    def dynamic() -> Any:
        make = Inputs(s=6)
        inputs = make.sizes["s"], make.tensor("s", 8), make.tensor("s", 8)
        return trace(lambda s, x, y: aten.cos(search(search(x, y), y)), *inputs)

    define = define_rule(search, data_dependent)
    agree(define, dynamic)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_arguments_that_require_gradients(requires_grad: bool) -> None:
    def made() -> Any:
        make = Inputs()
        x = make.tensor(4, 8, requires_grad=requires_grad)
        return trace(lambda x, y: search(x, y), x, make.tensor(4, 8))

    agree(define_rule(search, replace), made, count=1)
