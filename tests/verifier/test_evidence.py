"""A graph says of some values that they cannot be the same on every rank: none is assumed then."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx
from verifier.sites import (
    G,
    Site,
    aten,
    funcol,
    functional,
    verdict,
    weight,
    written,
    z,
)

from spfast import Assumption

Evidence = Callable[[Site, fx.Node], fx.Node]
TIMES = "would only multiply it by the number of ranks"

CONTRADICTED: dict[str, tuple[Evidence, str]] = {
    "it is summed": (lambda s, v: s.all_reduce(v), TIMES),
    "with a reduce_scatter": (
        lambda s, v: functional(s, funcol.reduce_scatter_tensor.default, v, "sum", 2, G),
        TIMES,
    ),
    "after row-wise operators": (
        lambda s, v: s.all_reduce(s.call(aten.exp.default, s.call(aten.sub.Tensor, v, s.reduced))),
        TIMES,
    ),
    "after a sum over features": (
        lambda s, v: s.all_reduce(s.call(aten.sum.dim_IntList, v, [-1], True)),
        TIMES,
    ),
    "its largest feature is compared": (
        lambda s, v: s.all_reduce(s.call(aten.amax.default, v, [-1], True), "max"),
        "would take the max of equal values",
    ),
    "after a sum over everything": (
        lambda s, v: s.all_reduce(s.call(aten.sum.default, v)),
        TIMES,
    ),
    "divided by the ranks, with what is proved": (
        lambda s, v: s.all_reduce(s.add(s.call(aten.div.Tensor, s.reduced, 2), v)),
        TIMES,
    ),
    "it is gathered": (
        lambda s, v: functional(
            s, funcol.all_gather_into_tensor.default, s.call(aten.t.default, v), 2, G
        ),
        "would gather copies of one value",
    ),
    "what is made of it is written to and then summed": (
        lambda s, v: s.all_reduce(
            written(s, lambda s, c: s.call(aten.add_.Tensor, c, 1.0), lambda s: v)
        ),
        TIMES,
    ),
}

NO_EVIDENCE: dict[str, Evidence] = {
    "nothing": lambda s, v: s.call(aten.neg.default, v),
    "summed with a partial sum": lambda s, v: s.all_reduce(
        s.add(s.call(aten.div.Tensor, v, 2), s.stream("partial", "per_rank"))
    ),
    "multiplied by a weight first": lambda s, v: s.all_reduce(
        s.call(aten.mm.default, v, weight(s))
    ),
    "summed in another group": lambda s, v: s.all_reduce(v, "sum", "dp:0"),
    "its largest element of all": lambda s, v: s.all_reduce(s.call(aten.amax.default, v), "max"),
    "its size": lambda s, v: s.all_reduce(s.call(aten.ones_like.default, v)),
    "overwritten before it is summed": lambda s, v: s.all_reduce(
        written(
            s,
            lambda s, c: s.call(aten.copy_.default, c, s.stream("partial", "per_rank")),
            lambda s: v,
        )
    ),
}


def with_evidence(evidence: Evidence) -> tuple[Site, list[str]]:
    site = Site()
    value = site.call(aten.tanh.default, z(site))
    total = site.add(site.reduced, value)
    site.output([total, evidence(site, value)])
    return site, [total.name]


@pytest.mark.parametrize("evidence", CONTRADICTED)
def test_an_assumption_that_the_graph_contradicts_fails(evidence: str) -> None:
    make, what = CONTRADICTED[evidence]
    site, readers = with_evidence(make)
    collective = max(
        (node for node in site.graph.nodes if "_c10d" in str(node.target)),
        key=lambda node: "wait" not in node.name,
    ).name
    (problem,) = verdict(site, readers).problems
    assert problem.reason == (
        "meets rows of one rank, but 'tanh_default' cannot be the same on every rank, "
        f"for then {collective!r} {what}"
    )


@pytest.mark.parametrize("evidence", NO_EVIDENCE)
def test_what_says_nothing_about_a_value_leaves_it_assumed(evidence: str) -> None:
    site, readers = with_evidence(NO_EVIDENCE[evidence])
    found = verdict(site, readers)
    assert found.problems == ()
    assert found.assumptions == (
        Assumption("tanh_default", f"one rank's rows of it are cut out for '{readers[0]}'", G),
    )


def test_of_two_values_that_are_summed_together_one_is_local() -> None:
    def site(assumed: int) -> tuple[Site, list[str]]:
        s = Site()
        values = [s.stream("u"), s.stream("v")]
        totals = [s.add(s.reduced, value) for value in values]
        s.output([*totals, s.all_reduce(s.add(*values))])
        return s, [total.name for total in totals[:assumed]]

    made, readers = site(2)
    problems = verdict(made, readers).problems
    assert [problem.reason for problem in problems] == [
        "meets rows of one rank, but 'u' and 'v' cannot all be the same on every rank, "
        f"for then 'all_reduce_default_1' {TIMES}"
    ]
    made, readers = site(1)
    found = verdict(made, readers)
    assert found.ok and [one.value for one in found.assumptions] == ["u"]


def test_what_a_graph_says_of_one_group_it_does_not_say_of_another() -> None:
    site, readers = with_evidence(lambda s, v: s.all_reduce(v, "sum", "other:0"))
    assert verdict(site, readers).ok
