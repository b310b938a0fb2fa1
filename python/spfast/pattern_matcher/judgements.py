"""Torch's judgements of single nodes, remembered where they depend on little.

The two questions are whether a node mutates something, and whether Inductor leaves it to a
fallback. They are asked for every candidate or match, and torch takes longer to answer them than
the matcher takes for all else.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
from torch._higher_order_ops.auto_functionalize import AutoFunctionalized
from torch._inductor.lowering import (
    fallback_node_due_to_unsupported_type,
    unsupported_input_tensor,
    unsupported_output_tensor,
)
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["Support", "compute_mutation_region_ids", "mutates"]

_mutable: dict[Any, bool] = {}


def mutates(node: torch.fx.Node) -> bool:
    """Torch's `is_mutation_op`."""
    target = node.target
    if node.op != "call_function":
        return bool(stock.is_mutation_op(node))
    known = _mutable.get(target)
    if known is not None:
        return known
    answer = bool(stock.is_mutation_op(node))
    # The schema of an operator tells what it mutates. For any other function an argument may, so
    # that its answer is not remembered.
    if isinstance(target, (torch._ops.OpOverload, AutoFunctionalized)) or target is getitem:
        _mutable[target] = answer
    return answer


def compute_mutation_region_ids(graph: torch.fx.Graph) -> None:
    """Torch's function of the same name."""
    region = 0
    for node in graph.nodes:
        if mutates(node):
            region += 1
        node.meta["mutation_region_id"] = region


class Support:
    """Whether Inductor leaves a node to a fallback: such a node is no candidate.

    One lasts for one run of a pass: the answers depend on configuration.
    """

    def __init__(self) -> None:
        self._inputs: dict[Any, bool] = {}
        self._outputs: dict[Any, bool] = {}

    def lacks(self, node: torch.fx.Node) -> bool:
        """Torch's `fallback_node_due_to_unsupported_type`, without CPU inputs allowed."""
        for operand in node.all_input_nodes:
            if not self._plain(operand, node, self._inputs, unsupported_input_tensor):
                return self._ask(node)
        if not self._plain(node, node, self._outputs, unsupported_output_tensor):
            return self._ask(node)
        return False

    def _ask(self, node: torch.fx.Node) -> bool:
        return bool(fallback_node_due_to_unsupported_type(node, allow_cpu_inputs=False))

    def _plain(self, of: torch.fx.Node, node: torch.fx.Node, known: Any, unsupported: Any) -> bool:
        """Whether a value is one of those that are surely supported."""
        value = of.meta.get("val")
        parts: Any = value if type(value) in (tuple, list) else (value,)
        for part in parts:
            if type(part) is not FakeTensor:
                if part is None or type(part) in (int, float, bool, torch.SymInt):
                    continue
                return False
            key = (part.dtype, part.fake_device, part.layout)
            plain = known.get(key)
            if plain is None:
                # Torch's answer for a complex or 8-bit float dtype depends on the node. So such a
                # dtype counts as not plain here, and torch is asked for each node.
                special = part.is_complex() or "float8" in str(part.dtype)
                plain = known[key] = not special and not unsupported(part, node)
            if not plain:
                return False
        return True
