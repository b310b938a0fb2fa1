"""The checks can fail: each kind of fault, planted in a right rewrite, is found by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast
from spfast import Result
from tests.pool.checks import check, examine
from tests.pool.evidence import shown
from tests.pool.program import Input, Program, Step, V, build, build_all
from tests.pool.rewrite import Rewrite, rewritten
from tests.pool.shrink import fails_with, shrink
from tests.pool.world import World

JOIN = "_c10d_functional."


def summed(name: str, value: str, how: str = "sum") -> tuple[Step, Step]:
    return (
        Step(f"{name}r", f"{JOIN}all_reduce.default", (V(value), how, "tp")),
        Step(name, f"{JOIN}wait_tensor.default", (V(f"{name}r"),)),
    )


SITE = Program(
    World(2),
    inputs=(Input("part", (8, 4), differs=("tp",)), Input("res", (8, 4)), Input("gain", (4,))),
    steps=(
        *summed("whole", "part"),
        Step("total", "aten.add.Tensor", (V("whole"), V("res"))),
        Step("square", "aten.pow.Tensor_Scalar", (V("total"), 2)),
        Step("mean", "aten.mean.dim", (V("square"), [-1], True)),
        Step("scale", "aten.rsqrt.default", (V("mean"),)),
        Step("normed", "aten.mul.Tensor", (V("total"), V("scale"))),
        Step("out", "aten.mul.Tensor", (V("normed"), V("gain"))),
    ),
    outputs=("out",),
)


def made() -> Rewrite:
    found = rewritten(SITE, build_all(SITE))
    assert found.results[0].matched_count == 1
    return found


def kinds(found: Rewrite) -> set[str]:
    return {failure.kind for failure in examine(found).failures}


def of_kind(graph: fx.Graph, name: str) -> fx.Node:
    return next(node for node in graph.nodes if name in str(node.target))


def test_a_right_rewrite_passes() -> None:
    outcome = examine(made())
    assert (outcome.failures, outcome.rewritten, outcome.proved) == ([], 1, True)


def rows_of_the_other_rank(found: Rewrite) -> None:
    for rank, graph in enumerate(found.after):
        node = of_kind(graph, "slice")
        start = 0 if rank else 4
        node.args = (node.args[0], 0, start, start + 4)


def no_gather(found: Rewrite) -> None:
    for graph in found.after:
        gather = of_kind(graph, "all_gather")
        graph.output_node().args = ((gather.args[0],),)


def stale_strides(found: Rewrite) -> None:
    for graph in found.after:
        node = of_kind(graph, "reduce_scatter")
        with node.meta["val"].fake_mode:
            node.meta["val"] = torch.empty_strided((4, 4), (1, 4), dtype=torch.float64)


def one_rank_gathers_first(found: Rewrite) -> None:
    graph = found.after[1]
    part = next(iter(graph.nodes))
    with graph.inserting_after(part):
        more = graph.call_function(torch.ops._c10d_functional.all_gather_into_tensor.default,
                                   (part, 2, "tp"))  # fmt: skip
    more.meta["val"] = torch.cat([part.meta["val"]] * 2)


def a_gather_too_many(found: Rewrite) -> None:
    for graph in found.after:
        part = next(iter(graph.nodes))
        with graph.inserting_after(part):
            more = graph.call_function(torch.ops._c10d_functional.all_gather_into_tensor.default,
                                       (part, 2, "tp"))  # fmt: skip
        more.meta["val"] = torch.cat([part.meta["val"]] * 2)


def nothing_was_done(found: Rewrite) -> None:
    found.after[:] = build_all(SITE)


def used_before_it_is_made(found: Rewrite) -> None:
    for graph in found.after:
        of_kind(graph, "pow").append(of_kind(graph, "reduce_scatter"))


def takes_on_trust_what_is_not_there(found: Rewrite) -> None:
    assumption = dataclasses.replace(found.results[0].assumptions[0], value="nobody")
    found.results[:] = [dataclasses.replace(r, assumptions=(assumption,)) for r in found.results]


def counts_that_differ(found: Rewrite) -> None:
    found.results[1] = dataclasses.replace(found.results[1], matched_count=2)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (rows_of_the_other_rank, "wrong numbers"),
        (no_gather, "interface"),
        (stale_strides, "meta"),
        (one_rank_gathers_first, "hang"),
        (one_rank_gathers_first, "ranks differ"),
        (a_gather_too_many, "bytes"),
        (nothing_was_done, "again"),
        (nothing_was_done, "unexplained"),
        (used_before_it_is_made, "lint"),
        (takes_on_trust_what_is_not_there, "assumption"),
        (counts_that_differ, "ranks differ"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_planted_fault_is_found(plant: Callable[[Rewrite], None], kind: str) -> None:
    found = made()
    plant(found)
    assert kind in kinds(found)


def test_an_error_that_leaves_edits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: fx.Graph, config: object) -> Result:
        raise RuntimeError("no")

    def damages(graph: fx.Graph, config: object) -> Result:
        of_kind(graph, "all_reduce").args = (next(iter(graph.nodes)), "max", "tp")
        raise RuntimeError("no")

    monkeypatch.setattr(spfast, "apply", fails)
    assert [str(each) for each in check(SITE).failures] == ["crash: RuntimeError: no"]
    monkeypatch.setattr(spfast, "apply", damages)
    assert [each.kind for each in check(SITE).failures] == ["damage"]


def test_a_verifier_that_proves_what_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made()
    rows_of_the_other_rank(found)
    monkeypatch.setattr(spfast, "verify", lambda *_: spfast.Verification())
    assert "wrong numbers, proved" in kinds(found)


def far(residual: Input) -> Program:
    inputs = tuple(residual if spec.name == "res" else spec for spec in SITE.inputs)
    return dataclasses.replace(SITE, inputs=inputs)


def test_a_false_assumption_that_nothing_tells_is_counted_and_no_failure() -> None:
    outcome = check(far(Input("res", (8, 4), differs=("tp",))))
    assert (outcome.failures, outcome.said) == ([], True)


def test_a_false_assumption_that_the_graph_contradicts_is_a_failure() -> None:
    program = far(Input("res", (8, 4), differs=("tp",)))
    plain = rewritten(program, build_all(program))
    # The same rewrite, of a graph that sums the residual over the ranks as well.
    told = dataclasses.replace(
        program, steps=(*program.steps, *summed("shown", "res")), outputs=("out", "shown")
    )
    for graph in plain.after:
        res = next(node for node in graph.nodes if node.name == "res")
        last = graph.output_node()
        with graph.inserting_before(last):
            more = graph.call_function(
                torch.ops._c10d_functional.all_reduce.default, (res, "sum", "tp"), name="shownr"
            )
        more.meta["val"] = res.meta["val"]
        last.args = ((*last.args[0], more),)
    found = dataclasses.replace(plain, program=told, before=build_all(told))
    assert "trust against evidence" in kinds(found)


def test_what_a_graph_shows_to_differ() -> None:
    program = Program(
        World(2),
        inputs=(Input("a", (4, 4)), Input("b", (4, 4)), Input("w", (4, 4)), Input("gain", (4,))),
        steps=(
            Step("e", "aten.exp.default", (V("a"),)),
            Step("m", "aten.mul.Tensor", (V("e"), V("gain"))),
            *summed("s", "m"),
            Step("p", "aten.mm.default", (V("b"), V("w"))),
            *summed("t", "p"),
            Step("later", "aten.mm.default", (V("a"), V("w"))),
            Step("shared", "aten.add.Tensor", (V("t"), V("b"))),
        ),
        outputs=("s", "t", "later", "shared"),
    )
    # Through elements back to `a` and on to what is computed of it; never through a product.
    assert shown(build(program), "tp") == {"a", "e", "m", "p", "later"}
    assert shown(build(program), "dp") == set()


def test_a_failing_program_is_cut_down() -> None:
    extra = tuple(
        Step(f"x{i}", "aten.sin.default", (V("out" if i == 0 else f"x{i - 1}"),)) for i in range(5)
    )
    large = dataclasses.replace(
        SITE,
        inputs=(*SITE.inputs, Input("other", ("s0", 3))),
        symbols={"s0": 6},
        steps=(*SITE.steps, *extra, Step("last", "aten.cos.default", (V("other"),))),
        outputs=("x4", "last", "total"),
    )

    def fails(program: Program) -> bool:
        return any(step.target == "aten.rsqrt.default" for step in program.steps)

    small = shrink(large, fails)
    assert [step.target for step in small.steps] == ["aten.rsqrt.default"]
    assert not small.symbols and len(small.inputs) == 1
    assert not fails_with("wrong numbers")(small)
