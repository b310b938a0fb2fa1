"""What meets one rank's rows: proved to be the same on every rank, assumed, or contradicted."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from verifier.sites import ROWS, WIDTH, G, Site, aten, funcol, verdict

from spfast import Assumption, ConfigError, Problem, SequenceParallelConfig, verify

Value = Callable[[Site], fx.Node]
UNPROVED = "meets rows of one rank but is not proved the same on every rank"


def summed_with(value: Value) -> tuple[Site, list[str]]:
    """The all_reduce plus a value; that sum is what works on rows."""
    site = Site()
    total = site.add(site.reduced, value(site))
    site.output([total])
    return site, [total.name]


def y(s: Site) -> fx.Node:
    return s.stream("y")


def z(s: Site) -> fx.Node:
    return s.stream("z", "per_rank")


def weight(s: Site) -> fx.Node:
    return s.stream("w", "per_rank", WIDTH)


def number(s: Site) -> fx.Node:
    n = s.placeholder("n", (), torch.int64, "constant", 3)
    return s.call(aten._local_scalar_dense.default, n)


def written(s: Site, what: Callable[[Site, fx.Node], Any], start: Value = y) -> fx.Node:
    copy = s.call(aten.clone.default, start(s))
    what(s, copy)
    return copy


def part_of(s: Site, node: fx.Node) -> fx.Node:
    return s.call(aten.slice.Tensor, node, 0, 0, 2)


def functional(s: Site, op: Any, *args: Any) -> fx.Node:
    return s.wait(s.call(op, *args))


PROVED: dict[str, Value] = {
    "a named input": y,
    "an operator on it": lambda s: s.call(aten.relu.default, y(s)),
    "a view of it": lambda s: s.call(aten.view.default, y(s), [ROWS, WIDTH]),
    "a product of two": lambda s: s.call(aten.mm.default, y(s), s.stream("y", rows=WIDTH)),
    "a row of numbers": lambda s: s.call(aten.arange.default, WIDTH, dtype=torch.float32),
    "a constant": lambda s: s.call(aten.full.default, [ROWS, WIDTH], 2.0),
    "zeros in the shape of a local value": lambda s: s.call(aten.zeros_like.default, z(s)),
    "an all_reduce of the group": lambda s: s.all_reduce(z(s)),
    "another reduction": lambda s: s.all_reduce(z(s), "max"),
    "an all_gather of the group": lambda s: functional(
        s, funcol.all_gather_into_tensor.default, s.stream("z", "per_rank", ROWS // 2), 2, G
    ),
    "a broadcast of the group": lambda s: functional(s, funcol.broadcast.default, z(s), 0, G),
    "what was reduced in place": lambda s: written(
        s, lambda s, v: s.wait(s.call(funcol.all_reduce_.default, v, "sum", G)), z
    ),
    "what a replicated value was copied to": lambda s: written(
        s, lambda s, v: s.call(aten.copy_.default, v, y(s)), z
    ),
    "what was written to with a replicated value": lambda s: written(
        s, lambda s, v: s.call(aten.add_.Tensor, v, s.stream("y"))
    ),
    "what was filled": lambda s: written(s, lambda s, v: s.call(aten.fill_.Scalar, v, 1.0), z),
}

UNKNOWN: dict[str, Value] = {
    "another input": z,
    "an operator on it": lambda s: s.add(y(s), z(s)),
    "a product with a weight": lambda s: s.call(aten.mm.default, y(s), weight(s)),
    "an all_reduce of another group": lambda s: s.all_reduce(y(s), "sum", "dp:0"),
    "an all_gather of another group": lambda s: functional(
        s, funcol.all_gather_into_tensor.default, s.stream("y", rows=ROWS // 2), 2, "dp:0"
    ),
    "random numbers": lambda s: s.call(aten.rand_like.default, y(s)),
    "a dropout": lambda s: s.call(
        operator.getitem, s.call(aten.native_dropout.default, y(s), 0.5, True), 0
    ),
    "memory never written": lambda s: s.call(aten.empty_like.default, y(s)),
    "an operator that nobody knows": lambda s: s.call(
        torch.ops.spfast_test_trust.double.default, y(s)
    ),
    "a fill with a number of a local tensor": lambda s: s.call(
        aten.full.default, [ROWS, WIDTH], number(s)
    ),
    "what a local value was added to": lambda s: written(
        s, lambda s, v: s.call(aten.add_.Tensor, v, z(s))
    ),
    "what a local value was added to through a view": lambda s: written(
        s,
        lambda s, v: s.call(
            aten.add_.Tensor,
            s.call(aten.view.default, v, [WIDTH, ROWS]),
            s.placeholder("z", (WIDTH, ROWS), torch.float32, "per_rank"),
        ),
    ),
    "random numbers in place": lambda s: written(s, lambda s, v: s.call(aten.normal_.default, v)),
}

# Unknown as well, and no node's value: whoever compares what the name says compares another.
UNNAMED: dict[str, Value] = {
    "a part of it was replaced": lambda s: written(
        s, lambda s, v: s.call(aten.copy_.default, part_of(s, v), part_of(s, y(s))), z
    ),
    "a part of it was reduced in place": lambda s: written(
        s, lambda s, v: s.call(funcol.all_reduce_.default, part_of(s, v), "sum", G), z
    ),
}

LOCAL: dict[str, tuple[Value, str]] = {
    "all_to_all": (
        lambda s: functional(s, funcol.all_to_all_single.default, y(s), [4, 4], [4, 4], G),
        "all_to_all_single_default",
    ),
    "a product with what a reduce_scatter yields": (
        lambda s: s.call(
            aten.mm.default,
            functional(
                s,
                funcol.reduce_scatter_tensor.default,
                s.stream("y", rows=2 * ROWS),
                "sum",
                2,
                G,
            ),
            s.stream("w", rows=WIDTH),
        ),
        "reduce_scatter_tensor_default",
    ),
    "coalesced reduce_scatter": (
        lambda s: s.wait(
            s.call(
                operator.getitem,
                s.call(
                    funcol.reduce_scatter_tensor_coalesced.default,
                    [s.stream("y", rows=2 * ROWS)],
                    "sum",
                    2,
                    G,
                ),
                0,
            )
        ),
        "reduce_scatter_tensor_coalesced_default",
    ),
    "computed from one": (
        lambda s: s.call(
            aten.relu.default,
            functional(s, funcol.all_to_all_single.default, y(s), [4, 4], [4, 4], G),
        ),
        "all_to_all_single_default",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def an_operator_that_nobody_knows() -> Any:
    with torch.library._scoped_library("spfast_test_trust", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
        torch.library.register_fake("spfast_test_trust::double", torch.empty_like, lib=library)
        yield


@pytest.mark.parametrize("value", PROVED)
def test_what_follows_from_named_inputs_is_proved(value: str) -> None:
    site, readers = summed_with(PROVED[value])
    found = verdict(site, readers, replicated=["y", "y_1"])
    assert found.problems == () and found.assumptions == ()
    if "y" not in [spec.name for spec in site.inputs]:
        assert verdict(site, readers, replicated="prove").ok
        assert verdict(site, readers).assumptions == ()


@pytest.mark.parametrize("value", UNKNOWN)
def test_what_does_not_follow_is_not_proved_and_may_be_assumed(value: str) -> None:
    site, readers = summed_with(UNKNOWN[value])
    found = verdict(site, readers, replicated=["y"])
    assert [problem.reason for problem in found.problems] == [UNPROVED]
    assumed = verdict(site, readers)
    assert assumed.ok and len(assumed.assumptions) == 1
    assert assumed.assumptions[0].value in {node.name for node in site.graph.nodes}


@pytest.mark.parametrize("value", UNNAMED)
def test_what_was_written_to_and_has_no_name_may_not_be_assumed(value: str) -> None:
    site, readers = summed_with(UNNAMED[value])
    found = verdict(site, readers, replicated=["y"])
    assert [problem.reason for problem in found.problems] == [UNPROVED]
    (problem,) = verdict(site, readers).problems
    assert problem.reason == (
        "meets rows of one rank after 'z' was written to: "
        "only what has a name of its own may be assumed"
    )


@pytest.mark.parametrize("value", LOCAL)
@pytest.mark.parametrize("replicated", ["infer", "prove", ["y"]])
def test_what_differs_by_what_it_is_never_meets_rows(value: str, replicated: Any) -> None:
    make, source = LOCAL[value]
    site, readers = summed_with(make)
    (problem,) = verdict(site, readers, replicated).problems
    assert "is another value on every rank: it comes from" in problem.reason
    assert problem.reason.endswith(repr(source))


def test_a_number_read_out_of_a_tensor_is_one_of_the_operands() -> None:
    site = Site()
    product = site.call(aten.mul.Tensor, site.reduced, number(site))
    site.output([product])
    assert [one.value for one in verdict(site, [product.name]).assumptions] == [
        "_local_scalar_dense_default"
    ]
    assert verdict(site, [product.name], replicated=["n"]).ok
    (problem,) = verdict(site, [product.name], replicated=[]).problems
    assert problem == Problem("_local_scalar_dense_default", UNPROVED)


def test_a_size_is_the_same_everywhere() -> None:
    site = Site(dynamic=True)
    size = site.call(aten.sym_size.int, site.placeholder("t", ("tokens",), torch.float32), 0)
    product = site.call(aten.mul.Tensor, site.reduced, size)
    site.output([product])
    assert verdict(site, [product.name], replicated="prove").ok


def test_the_rank_itself_differs() -> None:
    pytest.importorskip("torch.distributed._ops.device_mesh")
    site = Site()
    mesh = site.placeholder("mesh", (1, 2), torch.int64)
    rank = site.call(torch.ops.device_mesh._runtime_compute_coordinate_on_dim.default, mesh, 0)
    product = site.call(aten.mul.Tensor, site.reduced, rank)
    site.output([product])
    (problem,) = verdict(site, [product.name]).problems
    assert "comes from '_runtime_compute_coordinate_on_dim_default'" in problem.reason


# --- what the graph itself says ---

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


# --- how it is asked ---


def test_the_config_says_what_is_replicated_and_an_argument_wins() -> None:
    site, readers = summed_with(y)

    def ask(chosen: Any, **argument: Any) -> bool:
        from verifier.sites import sharded

        config = SequenceParallelConfig(tp_size=2, tp_rank=1, replicated=chosen)
        return verify(site.graph, sharded(site.graph, readers, 1, 2), config, **argument).ok

    assert ask("infer") and not ask("prove")
    assert ask(["y"]) and not ask(["x"])
    assert ask(lambda node: node.name == "y") and not ask(lambda node: False)
    assert ask("prove", replicated="infer") and not ask(["y"], replicated=[])


def test_replicated_is_checked_as_in_the_config() -> None:
    site, readers = summed_with(y)
    with pytest.raises(ConfigError, match="replicated='y' is unknown: pass 'infer', 'prove'"):
        verdict(site, readers, replicated="y")


def test_a_lifted_constant_is_known_when_it_is_named() -> None:
    site = Site()
    with site.graph.inserting_before(site.reduced):
        scales = site.graph.get_attr("scales")
    with site.mode:
        scales.meta["val"] = torch.empty(ROWS, WIDTH)
    total = site.add(site.reduced, scales)
    site.output([total])
    site.graph.owning_module = None
    assert [one.value for one in verdict(site, [total.name]).assumptions] == ["scales"]
    assert not verdict(site, [total.name], replicated="prove").ok
    assert verdict(site, [total.name], replicated=["scales"]).ok
