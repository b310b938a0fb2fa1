"""Constants that each rank has for itself: a graph's literals may be another rank's others."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from spfast.reference.traits import traits_of
from spfast.reference.values import operator_name

__all__ = ["Doubted", "doubted_constants"]

# By constant: the groups of which each rank has its own, with the collective that shows it.
Doubted = dict[fx.Node, dict[Any, fx.Node]]


def doubted_constants(
    graph: fx.Graph,
    gives_away: Callable[[fx.Node], tuple[Any, list[fx.Node]]],
    computes: Callable[[fx.Node], bool],
    follows: Callable[[fx.Node, fx.Node], bool],
) -> Doubted:
    """Finds what a collective would be for nothing on, were it the same on every rank.

    Args:
        graph: The graph.
        gives_away: The group of a collective, and its operands that are proved to be shared.
        computes: Whether ranks with the same operands get the same result of a node.
        follows: Whether a node's operands would make a collective of its result be for nothing.

    Example:
        >>> doubted_constants(fx.Graph(), lambda node: (None, []), bool, lambda *nodes: True)
        {}
    """
    doubted: Doubted = {}
    for node in graph.nodes:
        group, pending = gives_away(node)
        seen: set[fx.Node] = set()
        while pending:
            value = pending.pop()
            if value in seen or not computes(value) or _is_number(value):
                continue
            seen.add(value)
            operands = [each for each in value.all_input_nodes if not _is_number(each)]
            if follows(value, node):
                pending += operands
            if not operands:
                doubted.setdefault(value, {}).setdefault(group, node)
    return doubted


def _is_number(node: fx.Node) -> bool:
    """Whether a value is a size, or computed of sizes."""
    if node.op != "call_function":
        return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool))
    if node.target is operator.getitem:
        return False
    module = operator_name(node).partition(".")[0]
    return traits_of(operator_name(node)).sizes or module in (
        "_operator",
        "math",
        "builtins",
        "torch",
    )
