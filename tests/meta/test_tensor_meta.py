"""tensor_meta of what a rewrite touches is what torch says of the new value."""

from __future__ import annotations

import pytest
import torch
from torch.fx.passes.shape_prop import _extract_tensor_metadata

import spfast
from bench.workloads.catalogue import WORKLOADS
from spfast.fxgraph.tensor_meta import tensor_metas

CONFIG = spfast.SequenceParallelConfig(tp_size=8, tp_rank=3, divisibility="assume")


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_every_node_is_described_as_it_is(name: str) -> None:
    graph = WORKLOADS[name].fresh(2)
    before = {node: node.meta.get("val") for node in graph.nodes}
    assert spfast.apply(graph, CONFIG).matched_count == 5
    changed = 0
    for node in graph.nodes:
        if "tensor_meta" in node.meta:
            expected = _extract_tensor_metadata(node.meta["val"])
            assert repr(node.meta["tensor_meta"]) == repr(expected), node
            changed += node in before and before[node] is not node.meta["val"]
    assert changed >= 5


def test_values_of_one_size_that_differ_are_told_apart() -> None:
    graph = torch.fx.Graph()
    values = [
        torch.empty(4, 8, device="meta"),
        torch.empty(8, 4, device="meta").t(),
        torch.empty(4, 8, device="meta", dtype=torch.float16),
        torch.empty(4, 8, device="meta", requires_grad=True),
        (torch.empty(4, 8, device="meta"), None),
        torch.empty(4, 8, device="meta"),
    ]
    nodes = [graph.placeholder(f"x{i}") for i in range(len(values))]
    for node in nodes:
        node.meta["tensor_meta"] = None
    found = tensor_metas(nodes, values)
    for described, value in zip(found, values, strict=True):
        if isinstance(value, tuple):
            assert described == (_extract_tensor_metadata(value[0]), None)
        else:
            assert described == _extract_tensor_metadata(value)
    assert found[0] is found[5]
