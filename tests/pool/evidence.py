"""Which values a graph itself shows to differ by rank, by a reasoning of the tests' own."""

from __future__ import annotations

import torch
from torch import fx

from tests.pool.costs import kind_of
from tests.pool.lockstep import is_collective

PASSED = (
    "aten._to_copy.default",
    "prims.convert_element_type.default",
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "_c10d_functional.wait_tensor.default",
)


def shown(graph: fx.Graph, group: str) -> set[str]:
    """The values that differ by rank, by the graph's evidence.

    These are what reaches a sum over the group through operators on single elements (were it the
    same everywhere, the sum would only multiply), what comes out of a reduce_scatter or an
    all_to_all, and what is computed from such values otherwise than by a collective.
    """
    found: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and is_collective(node.target):
            if str(node.args[-1]) == group and kind_of(node.target) in (
                "all_reduce",
                "reduce_scatter",
            ):
                found.update(node.all_input_nodes)
        elif node in found and node.op == "call_function" and _by_element(node):
            found.update(each for each in node.all_input_nodes if _rows(each) == _rows(node))
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if is_collective(node.target):
            if kind_of(node.target) in ("reduce_scatter", "all_to_all"):
                found.add(node)
        elif any(each in found for each in node.all_input_nodes):
            found.add(node)
    return {node.name for node in found}


def _by_element(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or str(node.target) in PASSED


def _rows(node: fx.Node) -> str:
    value = node.meta.get("val")
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else node.name
