"""Rules, dialects and operators that users add are found and rewritten like the package's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx

import spfast
from spfast import patterns
from spfast.patterns import CollectiveFamily, Dialect, Registry, Rows, Value, ops
from spfast.patterns.vllm_ir import COLLECTIVES


def node(graph: fx.Graph, target: object, *args: object, rows: int = 8) -> fx.Node:
    made = graph.call_function(target, args)  # type: ignore[arg-type]
    made.meta["val"] = torch.empty(rows, 16, device="meta")
    return made


def inputs(graph: fx.Graph, *names: str) -> list[fx.Node]:
    made = [graph.placeholder(name) for name in names]
    for each in made:
        each.meta["val"] = torch.empty(8, 16, device="meta")
    return made


@pytest.fixture(scope="module")
def library() -> torch.library.Library:
    made = torch.library.Library("spfast_registry_test", "DEF")
    for schema in (
        "scale_shift(Tensor x, Tensor residual, float by) -> Tensor",
        "all_reduce(Tensor x, str group) -> Tensor",
        "reduce_scatter(Tensor x, str group, int world_size) -> Tensor",
        "all_gather(Tensor x, str group, int world_size) -> Tensor",
    ):
        made.define(schema)
    return made


CONFIG = spfast.SequenceParallelConfig(tp_size=2, tp_rank=0)


def test_a_rule_of_ones_own(library: torch.library.Library) -> None:
    mine = torch.ops.spfast_registry_test
    graph = fx.Graph()
    x, residual = inputs(graph, "x", "residual")
    reduced = node(graph, torch.ops.vllm.all_reduce.default, x, "tp:0")
    graph.output((node(graph, mine.scale_shift.default, reduced, residual, 0.5),))
    assert spfast.apply(graph, CONFIG).matched_count == 0
    with patterns.default_registry().temporary():

        @patterns.register("all_reduce_scale_shift", dialect="vllm_ir", priority=2)
        def all_reduce_scale_shift(reduced: Value, residual: Rows, by: Value) -> Value:
            return ops.spfast_registry_test.scale_shift(reduced, residual, by)

        result = spfast.apply(graph, CONFIG)
    assert result.by_pattern == {"all_reduce_scale_shift": 1}


def test_a_dialect_of_ones_own(library: torch.library.Library) -> None:
    mine = torch.ops.spfast_registry_test
    graph = fx.Graph()
    x, weight = inputs(graph, "x", "weight")
    weight.meta["val"] = torch.empty(16, device="meta")
    reduced = node(graph, mine.all_reduce.default, x, "tp:0")
    graph.output((node(graph, torch.ops.aten.rms_norm.default, reduced, [16], weight, 1e-6),))
    with patterns.default_registry().temporary() as registry:
        registry.add_dialect(
            Dialect(
                "test",
                (
                    CollectiveFamily(
                        "test",
                        all_reduce="spfast_registry_test.all_reduce.default",
                        wait=None,
                        reduce_op=-1,
                        group=1,
                        reduce_scatter="spfast_registry_test.reduce_scatter.default",
                        reduce_scatter_args=("input", "group", "world_size"),
                        all_gather="spfast_registry_test.all_gather.default",
                        all_gather_args=("input", "group", "world_size"),
                    ),
                ),
            )
        )
        result = spfast.apply(graph, CONFIG)
    assert result.by_pattern == {"first_all_reduce_rms_norm": 1}
    calls = [each for each in graph.nodes if each.op == "call_function"]
    assert [str(each.target) for each in calls] == [
        "spfast_registry_test.reduce_scatter.default",
        "aten.rms_norm.default",
        "spfast_registry_test.all_gather.default",
    ]
    assert calls[0].args == (x, "tp:0", 2)
    assert calls[2].args == (calls[1], "tp:0", 2)


def test_operators_may_be_registered_after_the_rule() -> None:
    registry = Registry()
    late = replace(COLLECTIVES, all_reduce="spfast_late_test.all_reduce.default")
    registry.add_dialect(Dialect("late", (late,)))

    @registry.register("late_rule", dialect="late")
    def late_rule(reduced: Value, by: Value) -> Value:
        return ops.spfast_late_test.scale(reduced, by)

    graph = fx.Graph()
    (x,) = inputs(graph, "x")
    assert spfast.apply(graph, CONFIG, registry=registry).matched_count == 0
    library = torch.library.Library("spfast_late_test", "DEF")
    library.define("all_reduce(Tensor x, str group) -> Tensor")
    library.define("scale(Tensor x, float by) -> Tensor")
    reduced = node(graph, torch.ops.spfast_late_test.all_reduce.default, x, "tp:0")
    graph.output((node(graph, torch.ops.spfast_late_test.scale.default, reduced, 2.0),))
    result = spfast.apply(graph, CONFIG, registry=registry)
    assert result.by_pattern == {"late_rule": 1}
