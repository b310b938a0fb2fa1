"""What meets one rank's rows: proved to be the same on every rank, assumed, or contradicted."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from verifier.sites import (
    ROWS,
    WIDTH,
    G,
    Site,
    Value,
    aten,
    funcol,
    functional,
    number,
    part_of,
    verdict,
    weight,
    written,
    y,
    z,
)

from spfast import ConfigError, Problem, SequenceParallelConfig, verify

UNPROVED = "meets rows of one rank but is not proved the same on every rank"


def summed_with(value: Value) -> tuple[Site, list[str]]:
    """The all_reduce plus a value; that sum is what works on rows."""
    site = Site()
    total = site.add(site.reduced, value(site))
    site.output([total])
    return site, [total.name]


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
    "a dropout of such": (
        lambda s: s.call(
            operator.getitem,
            s.call(
                aten.native_dropout.default,
                functional(s, funcol.all_to_all_single.default, y(s), [4, 4], [4, 4], G),
                0.0,
                True,
            ),
            0,
        ),
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
