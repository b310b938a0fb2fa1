"""Every registered pattern, in every form, against the compiled core: matched, sharded, right."""

from __future__ import annotations

import pytest
import torch
from patterns.one_site import (
    GROUP,
    TOKENS,
    TP_SIZE,
    Site,
    declare_inplace_overload,
    make_site,
)

import spfast
from spfast.patterns import default_registry
from spfast.patterns.model import Pattern
from spfast.testing.equivalence import assert_equivalent

declare_inplace_overload()
PATTERNS = [
    pattern
    for name in ("vllm_ir", "vllm_custom_ops", "functional")
    for pattern in default_registry().patterns([name])
]
FORMS = max(len(each.forms) for pattern in PATTERNS for each in pattern.operations)


def apply(site: Site, rank: int = 0) -> spfast.Result:
    return spfast.apply(
        site.graph,
        spfast.SequenceParallelConfig(tp_size=TP_SIZE, tp_rank=rank, recognise="patterns"),
    )


def rows(site: Site) -> int:
    return site.last.meta["val"].shape[0]


def label(pattern: Pattern) -> str:
    return f"{PATTERNS.index(pattern)}-{pattern.rule}"


RULES = {
    f"{pattern.rule}-{name}": pattern
    for name in ("vllm_ir", "vllm_custom_ops", "functional")
    for pattern in default_registry().patterns([name])
}


def negate_what_was_reduced(site: Site) -> None:
    """Puts an operator that no rule has between the all_reduce and what reads it, outputs aside."""
    reduced = site.nodes[0]
    with site.graph.inserting_after(reduced):
        negated = site.graph.call_function(torch.ops.aten.neg.default, (reduced,))
    negated.meta["val"] = reduced.meta["val"]
    for user in list(reduced.users):
        if user.op != "output" and user is not negated:
            user.replace_input_with(reduced, negated)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_holds_for_what_it_says_and_for_nothing_like_it(rule: str) -> None:
    pattern = RULES[rule]
    assert apply(make_site(pattern)).by_pattern == {pattern.rule: 1}
    like = make_site(pattern)
    negate_what_was_reduced(like)
    assert apply(like).by_pattern == {}


@pytest.mark.parametrize("choice", range(FORMS))
def test_every_form_matches_and_its_end_is_sharded(choice: int) -> None:
    for pattern in PATTERNS:
        site = make_site(pattern, choice, family=("vllm", "functional")[choice % 2])
        result = apply(site)
        assert result.by_pattern == {pattern.rule: 1}, f"{label(pattern)}\n{site.graph}"
        assert rows(site) == TOKENS // TP_SIZE, f"{label(pattern)}\n{site.graph}"


def test_every_pattern_computes_the_same_on_every_rank() -> None:
    for choice, pattern in enumerate(PATTERNS):
        site = make_site(pattern, choice)
        groups = {GROUP: list(range(TP_SIZE))}

        def rewrite(graph: torch.fx.Graph, rank: int) -> int:
            config = spfast.SequenceParallelConfig(
                tp_size=TP_SIZE, tp_rank=rank, recognise="patterns"
            )
            return int(spfast.apply(graph, config))

        counts = assert_equivalent(site.graph, rewrite, site.inputs(), TP_SIZE, 0.0, groups)
        assert counts == [1] * TP_SIZE, label(pattern)


# --- a constant that differs ----------------------------------------------------------------------

OTHER = {
    "none": 7,
    "bool": lambda value: not value,
    "int": lambda value: value - 1 if value == 1 else value + 1,
    "float": lambda value: value + 0.5,
    "dtype": lambda value: torch.float64,
    "last_dim": lambda value: [0],
}


def differ(site: Site, index: int) -> None:
    """Changes one constant of the site's graph."""
    node, at, literal = site.literals[index]
    other = OTHER[literal.tag]
    args, kwargs = list(node.args), dict(node.kwargs)
    place = args if 0 <= at.position < len(args) else kwargs
    key = at.position if place is args else at.keyword
    place[key] = other(place[key]) if callable(other) else other
    node.args, node.kwargs = tuple(args), kwargs


@pytest.mark.parametrize("choice", [0, 1])
def test_a_constant_that_differs_does_not_match(choice: int) -> None:
    seen = set()
    for pattern in PATTERNS:
        for index, (node, at, literal) in enumerate(make_site(pattern, choice).literals):
            # Once for each rule and place in the pattern: the tails of a norm share its beginning.
            case = (pattern.rule, node.name, at, literal)
            if case in seen:
                continue
            seen.add(case)
            site = make_site(pattern, choice)
            differ(site, index)
            apply(site)
            assert rows(site) == TOKENS, f"{label(pattern)} {at} {literal}\n{site.graph}"
    assert len(seen) >= 40


# --- an argument that no form names ---------------------------------------------------------------


def named(site: Site, text: str) -> torch.fx.Node:
    return next(node for node in site.nodes if text in str((node.target, node.args[:1])))


def whole_norm(text: str) -> Site:
    patterns = default_registry().variants(["functional"])
    chosen = (each for each in patterns if any(text in str(op.forms) for op in each.operations))
    return make_site(next(chosen))


def custom_norm(choice: int) -> Site:
    return make_site(default_registry().variants(["vllm_custom_ops"])[0], choice)


@pytest.mark.parametrize("text", ["aten.rms_norm", "aten._fused_rms_norm"])
def test_a_norm_over_two_dims_does_not_match(text: str) -> None:
    site = whole_norm(text)
    node = named(site, text)
    assert node.args[1] == [16]
    node.update_arg(1, [TOKENS, 16])
    assert apply(site).matched_count == 0
    node.update_arg(1, [16])
    assert apply(site).matched_count == 1


@pytest.mark.parametrize("choice", [0, 1])
def test_a_view_of_a_mutated_base_does_not_match(choice: int) -> None:
    site = custom_norm(choice)
    node = named(site, "_C.rms_norm")
    assert ("_all_bases" in node.kwargs) == (choice == 1)
    kwargs = dict(node.kwargs)
    node.kwargs = {**kwargs, "_result_size": [TOKENS, 16]}
    assert apply(site).matched_count == 0
    node.kwargs = kwargs
    assert apply(site).matched_count == 1


def test_another_base_than_the_argument_does_not_match() -> None:
    site = custom_norm(1)
    node = named(site, "_C.rms_norm")
    kwargs = dict(node.kwargs)
    for changes in (
        {"_result_base_index": 1},
        {"_all_bases": [*kwargs["_all_bases"], node.args[0]]},
    ):
        node.kwargs = kwargs | changes
        assert apply(site).matched_count == 0
    node.kwargs = kwargs | {"_result_alias": True}
    assert apply(site).matched_count == 1


def test_a_norm_of_part_of_each_row_does_not_match() -> None:
    site = make_site(default_registry().variants(["vllm_ir"])[0])
    node = named(site, "rms_norm")
    args = node.args
    node.args = (*args, 8)
    assert apply(site).matched_count == 0
    node.args = (*args, None)
    assert apply(site).matched_count == 1
