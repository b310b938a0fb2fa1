"""Fingerprints: blind to what may differ between ranks, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from spfast import ConfigError, GraphError, apply
from spfast.consistency import check_ranks_agree, fingerprint
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.testing.graphs import seeded_case
from spfast.testing.lockstep import copy_graph

aten = torch.ops.aten


def build(
    dynamic: bool = False,
    name: str = "x",
    scale: float = 2.0,
    dims: tuple[int, ...] = (1, 0),
    group: str = "tp:0",
    rows: int = 4,
    dtype: torch.dtype = torch.float32,
) -> fx.Graph:
    b = GraphBuilder(rows, dynamic)
    x = b.placeholder(name, (TOKENS if dynamic else rows, 8), dtype)
    y = b.call(torch.ops.vllm.all_reduce.default, x, group)
    z = b.call(aten.mul.Tensor, y, scale)
    b.output([b.call(aten.permute.default, z, list(dims)), y])
    return b.graph


def test_equal_graphs_agree_whatever_their_nodes_and_symbols_are_called() -> None:
    assert fingerprint(build()) == fingerprint(build(name="tokens"))
    assert len(fingerprint(build())) == 32
    first, second = build(dynamic=True), build(dynamic=True)
    (symbol,) = next(iter(second.nodes)).meta["val"].shape[0].node.expr.free_symbols
    env = next(iter(second.nodes)).meta["val"].fake_mode.shape_env
    assert env is not next(iter(first.nodes)).meta["val"].fake_mode.shape_env
    assert fingerprint(first) == fingerprint(second)
    assert symbol.name not in fingerprint(second)


def test_a_module_has_the_fingerprint_of_its_graph() -> None:
    module = fx.symbolic_trace(torch.nn.ReLU())
    assert fingerprint(module) == fingerprint(module.graph)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: build(scale=3.0),
        lambda: build(scale=2),
        lambda: build(dims=(0, 1)),
        lambda: build(group="tp:1"),
        lambda: build(rows=5),
        lambda: build(dtype=torch.bfloat16),
        lambda: build(dynamic=True),
    ],
    ids=["literal", "its_type", "list", "group", "shape", "dtype", "symbolic"],
)
def test_every_difference_counts(changed: Callable[[], fx.Graph]) -> None:
    assert fingerprint(build()) != fingerprint(changed())


def test_operands_are_told_apart_by_place() -> None:
    graph = build()
    before = fingerprint(graph)
    output = graph.output_node()
    (first, second) = output.args[0]
    output.args = ((second, first),)
    assert fingerprint(graph) != before


def test_device_indices_are_a_ranks_own_affair() -> None:
    def on(device: str) -> fx.Graph:
        graph = fx.Graph()
        empty = aten.empty.memory_format
        node = graph.call_function(empty, ([4],), {"device": torch.device(device)})
        graph.output(node)
        return graph

    assert fingerprint(on("cuda:0")) == fingerprint(on("cuda:3")) != fingerprint(on("cpu"))


def test_drawn_graphs_have_fingerprints_of_their_own_and_copies_share_them() -> None:
    prints = set()
    for seed in range(40):
        graph = seeded_case(seed).graph
        prints.add(fingerprint(graph))
        assert fingerprint(copy_graph(graph)) == fingerprint(graph)
        assert fingerprint(seeded_case(seed).graph) == fingerprint(graph)
    assert len(prints) == 40


def test_after_the_pass_only_ranks_that_keep_other_rows_differ() -> None:
    """Why it is to be taken before: each rank keeps its own rows of a residual from outside."""
    case = next(
        case
        for case in map(seeded_case, range(100))
        if "no first site" in case.notes and case.divisible and case.sites and not case.dynamic
    )
    prints = []
    for rank in (0, 1, 1):
        graph = copy_graph(case.graph)
        config = case.config(rank)
        assert int(apply(graph, config)) > 0
        prints.append(fingerprint(graph))
    assert prints[0] != prints[1] == prints[2]


def test_bad_input() -> None:
    with pytest.raises(GraphError, match="str is not a graph: pass an fx.Graph,"):
        fingerprint("graph")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="torch.distributed is not initialised, .* call init_pro"):
        check_ranks_agree(build())
