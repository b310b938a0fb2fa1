"""What each rank has for itself by its literals: those of another rank's graph may be others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from spfast.reference.parts import lone_parts
from spfast.reference.traits import traits_of
from spfast.reference.values import operator_name

__all__ = ["Doubted", "doubted_constants"]

# By constant: the groups of which each rank has its own, with the collective that shows it.
Doubted = dict[fx.Node, dict[Any, fx.Node]]


def doubted_constants(
    graph: fx.Graph,
    reduced: Callable[[fx.Node], tuple[Any, list[fx.Node]]],
    computes: Callable[[fx.Node], bool],
    follows: Callable[[fx.Node, fx.Node], bool],
    is_shared: Callable[[fx.Node, Any], bool],
) -> Doubted:
    """Finds what a collective would be for nothing on, were it the same on every rank.

    Besides constants these are parts of every row of what the ranks share, where nobody reads the
    rest: each rank may take another one.

    Args:
        graph: The graph.
        reduced: The group of a collective, and what it reduces or gathers.
        computes: Whether ranks with the same operands get the same result of a node.
        follows: Whether a node's operands would make a collective of its result be for nothing.
        is_shared: Whether all ranks of a group are proved to have a value.

    Example:
        >>> doubted_constants(fx.Graph(), lambda node: (None, []), bool, bool, bool)
        {}
    """
    doubted: Doubted = {}
    parts = lone_parts(graph)
    origins = _origins(graph, reduced, computes) if parts else {}
    for node in graph.nodes:
        group, values = reduced(node)
        shared = [value for value in values if is_shared(value, group)]
        for value in _behind(shared, node, computes, follows):
            if all(_is_number(each) for each in value.all_input_nodes):
                doubted.setdefault(value, {}).setdefault(group, node)
        for value in _behind(values, node, computes, follows) if parts else ():
            if value in parts and group in origins[value]:
                doubted.setdefault(value, {}).setdefault(group, node)
    return doubted


def _behind(
    pending: list[fx.Node],
    collective: fx.Node,
    computes: Callable[[fx.Node], bool],
    follows: Callable[[fx.Node, fx.Node], bool],
) -> Iterator[fx.Node]:
    """What a collective takes, and what that is computed of as long as it would show."""
    pending, seen = list(pending), set[fx.Node]()
    while pending:
        value = pending.pop()
        if value in seen or not computes(value) or _is_number(value):
            continue
        seen.add(value)
        yield value
        if follows(value, collective):
            pending += [each for each in value.all_input_nodes if not _is_number(each)]


def _origins(
    graph: fx.Graph,
    reduced: Callable[[fx.Node], tuple[Any, list[fx.Node]]],
    computes: Callable[[fx.Node], bool],
) -> dict[fx.Node, set[Any]]:
    """The groups of whose collectives each value comes, through whatever computes."""
    origins: dict[fx.Node, set[Any]] = {}
    for node in graph.nodes:
        group, values = reduced(node)
        origins[node] = {group} if values else set()
        if computes(node):
            origins[node] = origins[node].union(*(origins[each] for each in node.all_input_nodes))
    return origins


def _is_number(node: fx.Node) -> bool:
    """Whether a value is a size, or computed of sizes."""
    if node.op != "call_function":
        return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool))
    return traits_of(operator_name(node)).number
