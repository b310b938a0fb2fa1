"""A dialect whose collectives carry no group, as in engines that have one global group."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import spfast
from spfast import patterns, reference
from spfast.patterns import CollectiveFamily, Dialect, Registry
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
LIBRARY = torch.library.Library("spfast_global", "FRAGMENT")
LIBRARY.define("all_reduce(Tensor x) -> Tensor")
LIBRARY.define("reduce_scatter(Tensor x, int dim) -> Tensor")
LIBRARY.define("all_gather(Tensor x, int dim) -> Tensor")
LIBRARY.impl("all_reduce", torch.empty_like, "Meta")
FAMILY = CollectiveFamily(
    "global",
    all_reduce="spfast_global.all_reduce.default",
    wait=None,
    reduce_op=-1,
    group=None,
    reduce_scatter="spfast_global.reduce_scatter.default",
    reduce_scatter_args=("input", 0),
    all_gather="spfast_global.all_gather.default",
    all_gather_args=("input", 0),
)


@pytest.fixture
def registry() -> Registry:
    found = patterns.default_registry().copy()
    found.add_dialect(Dialect("global", (FAMILY,)))
    return found


def layer(also: str | None = None) -> torch.fx.Graph:
    build = GraphBuilder(tokens=8, dynamic=False)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
    residual = build.placeholder("residual", (TOKENS, 16), torch.float32)
    if also is not None:
        x = build.call(torch.ops.vllm.all_reduce.default, x, also)
    reduced = build.call(torch.ops.spfast_global.all_reduce.default, x)
    total = build.call(aten.add.Tensor, reduced, residual)
    mean = build.call(aten.mean.dim, build.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
    scale = build.call(aten.rsqrt.default, build.call(aten.add.Tensor, mean, 1e-6))
    build.output([build.call(aten.mul.Tensor, total, scale)])
    return build.graph


@pytest.mark.parametrize(
    "fields",
    [
        {"tp_size": 4, "tp_rank": 1},
        {"groups": {"tp": (4, 1)}},
        {"groups": {"tp": (4, 1)}, "group_name": "tp"},
    ],
)
def test_the_configs_only_group_is_meant(registry: Registry, fields: Any) -> None:
    graph = layer()
    result = spfast.apply(graph, spfast.SequenceParallelConfig(**fields), registry=registry)
    assert int(result) == 1
    calls = [
        (str(node.target), node.args[1:])
        for node in graph.nodes
        if node.op == "call_function"
        and ("global" in str(node.target) or "slice" in str(node.target))
    ]
    assert calls == [
        ("spfast_global.reduce_scatter.default", (0,)),
        ("aten.slice.Tensor", (0, 2, 4)),
        ("spfast_global.all_gather.default", (0,)),
    ]


def test_the_reference_takes_it_as_well(registry: Registry) -> None:
    config = spfast.SequenceParallelConfig(tp_size=3, tp_rank=1)  # eight tokens do not divide
    (ours,) = spfast.apply(layer(), config, registry=registry).skipped
    (theirs,) = reference.apply(layer(), config, registry=registry).skipped
    assert ours.reason == theirs.reason == "8 tokens are not divisible by tp_size 3"


def test_without_a_size_the_field_to_pass_is_named(registry: Registry) -> None:
    with pytest.raises(spfast.ConfigError) as error:
        spfast.apply(layer(), registry=registry)
    assert str(error.value) == (
        "an all_reduce of the graph names no group: "
        "pass tp_size and tp_rank in the config, or group_name"
    )


def test_beside_a_group_with_a_name_it_is_another(registry: Registry) -> None:
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1)
    with pytest.raises(spfast.ConfigError) as error:
        spfast.apply(layer(also="tp"), config, registry=registry)
    assert str(error.value) == (
        "the graph reduces over the groups 'tp', one without a name, and tp_rank=1 does not say of "
        "which: pass group_name, or groups={'tp': (size, rank)}"
    )
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, groups={"tp": (4, 1)})
    assert int(spfast.apply(layer(also="tp"), config, registry=registry)) > 0
