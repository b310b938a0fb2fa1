"""How likely a value is one rank's part of a sum, as the core rates it (cpp/rewrite/replication.h).

Among the operands of a reduced value the core takes the most suspect for one rank's part. So parts
of different suspicion stay apart. If they were added before they are reduced, the less suspect part
would not be blamed any more.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.targets import target_name
from spfast.patterns import Registry

__all__ = ["COMPUTED", "INPUT", "NOT_AT_ALL", "Suspicion"]

NOT_AT_ALL, INPUT, COMPUTED = range(3)


class Suspicion:
    """Rates values: constants and what collectives yield; inputs; what weights went into.

    Args:
        registry: Says which operators treat rows alone: those rate as what they read.

    Example:
        >>> from spfast.patterns import default_registry
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> twice = graph.call_function(torch.ops.aten.mul.Tensor, (x, 2.0))
        >>> product = graph.call_function(torch.ops.aten.mm.default, (x, x))
        >>> rates, known = Suspicion(default_registry()), {}
        >>> rates.of(twice, known) == INPUT, rates.of(product, known) == COMPUTED
        (True, True)
    """

    def __init__(self, registry: Registry) -> None:
        self._families = {rule.op: rule.family for rule in registry.rowwise()}
        self._exchanges = {
            name
            for family in registry.families()
            for name in (family.all_reduce, family.all_gather, family.wait)
        }

    def of(self, value: fx.Node, known: dict[fx.Node, int]) -> int:
        """One of the constants of this module.

        Args:
            value: What to rate.
            known: What was rated before in this graph; it grows.
        """
        stack = [value]
        while stack:
            node = stack[-1]
            operands = node.all_input_nodes if self._rates_as_operands(node) else []
            rated = [known[each] for each in operands if each in known]
            if len(rated) < len(operands) and COMPUTED not in rated:
                stack += (each for each in operands if each not in known)
                continue
            stack.pop()
            known[node] = max(rated) if rated else self._alone(node)
        return known[value]

    def _alone(self, node: fx.Node) -> int:
        if node.op != "call_function":
            return NOT_AT_ALL if isinstance(node.meta.get("val"), torch.SymInt) else INPUT
        if target_name(node.target) in self._exchanges:
            return NOT_AT_ALL
        return COMPUTED

    def _rates_as_operands(self, node: fx.Node) -> bool:
        if node.op != "call_function":
            return False
        if node.target is operator.getitem:
            return type(node.args[1]) is int
        family = self._families.get(target_name(node.target))
        return family is not None and not (family == "reduce" and _reduces_tokens(node))


def _reduces_tokens(node: fx.Node) -> bool:
    """Whether a reduction has no dims, or the first among them."""
    if len(node.args) < 2:
        return not node.kwargs
    dims: Any = node.args[1]
    return dims == 0 if type(dims) is int else not dims or 0 in dims
