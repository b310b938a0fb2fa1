"""What each rank has for itself by its literals: those of another rank's graph may be others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from spfast.reference.parts import lone_parts
from spfast.reference.traits import traits_of
from spfast.reference.values import IDENTITIES, VIEWS, operator_name

__all__ = ["Doubted", "doubted_constants", "doubted_sums"]

# For each constant: the groups whose ranks each have their own, with the collective that shows it.
Doubted = dict[fx.Node, dict[Any, fx.Node]]


def doubted_constants(
    graph: fx.Graph,
    reduced: Callable[[fx.Node], tuple[Any, list[fx.Node]]],
    computes: Callable[[fx.Node], bool],
    follows: Callable[[fx.Node, fx.Node], bool],
    is_shared: Callable[[fx.Node, Any], bool],
) -> Doubted:
    """Finds constants that differ from rank to rank, or else a collective would be for nothing.

    It also finds parts of every row of what the ranks share, where nobody reads the rest: each rank
    may take another part.

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
    origins = _origins(graph, reduced, computes)
    reached: dict[Any, dict[fx.Node, fx.Node]] = {}  # by group: what shows it
    for node in graph.nodes:
        group, values = reduced(node)
        # A product in a sum is one rank's part because of its left operand: nobody stores weights
        # that are parts of a sum.
        sums = "gather" not in operator_name(node) and follows(node, node)
        starts = [*values, *(_factors(values) if sums else ())]
        shared = [value for value in starts if is_shared(value, group)]
        for value in _behind(shared, node, computes, follows):
            if all(_is_number(each) for each in value.all_input_nodes):
                doubted.setdefault(value, {}).setdefault(group, node)
        for value in _behind(starts, node, computes, follows):
            reached.setdefault(group, {}).setdefault(value, node)
    for group, shown in reached.items():
        for value in lone_parts(shown):
            if group in origins[value]:
                doubted.setdefault(value, {}).setdefault(group, shown[value])
    return doubted


def doubted_sums(
    graph: fx.Graph,
    reduced: Callable[[fx.Node], tuple[Any, list[fx.Node]]],
    computes: Callable[[fx.Node], bool],
    follows: Callable[[fx.Node], bool],
    is_shared: Callable[[fx.Node, Any], bool],
) -> Doubted:
    """Finds what is summed although it is proved the same on every rank, where no literal differs.

    Args:
        graph: The graph.
        reduced: The group of a collective that multiplies equal values, and what it is given.
        computes: As :func:`doubted_constants` takes it.
        follows: Whether a node treats rows alone.
        is_shared: As :func:`doubted_constants` takes it.

    Example:
        >>> doubted_sums(fx.Graph(), lambda node: (None, []), bool, bool, bool)
        {}
    """
    doubted: Doubted = {}
    for node in graph.nodes:
        group, values = reduced(node)
        shared = [value for value in values if is_shared(value, group)]
        for value in _behind(shared, node, computes, lambda each, _: follows(each)):
            if value.target not in (*VIEWS, *IDENTITIES):  # an alias is the value itself
                doubted.setdefault(value, {}).setdefault(group, node)
    return doubted


_LINEAR = frozenset(
    f"aten.{name}"
    for name in """
    add.Tensor sub.Tensor neg.default t.default transpose.int permute.default _to_copy.default
    """.split()
) | {"prims.convert_element_type.default"}
_PRODUCTS = {"aten.mm.default": 0, "aten.addmm.default": 1, "aten._scaled_mm.default": 0}


def _factors(summed: list[fx.Node]) -> Iterator[fx.Node]:
    """The left operands of the products that a sum is of."""
    pending, seen = list(summed), set[fx.Node]()
    while pending:
        value = pending.pop()
        if value in seen or value.op != "call_function":
            continue
        seen.add(value)
        name = operator_name(value)
        if name in _LINEAR or value.target in (*VIEWS, *IDENTITIES):
            pending += value.all_input_nodes
        elif name in _PRODUCTS and isinstance(value.args[_PRODUCTS[name]], fx.Node):
            yield value.args[_PRODUCTS[name]]  # type: ignore[misc]


def _behind(
    pending: list[fx.Node],
    collective: fx.Node,
    computes: Callable[[fx.Node], bool],
    follows: Callable[[fx.Node, fx.Node], bool],
) -> Iterator[fx.Node]:
    """A collective's operands, and what these are computed from, as far as they show anything."""
    pending, seen = list(pending), set[fx.Node]()
    while pending:
        value = pending.pop()
        if value in seen or not computes(value) or _is_number(value):
            continue
        seen.add(value)
        yield value
        operands = [each for each in value.all_input_nodes if not _is_number(each)]
        is_followed = follows(value, collective)
        pending += [each for each in operands if is_followed or _is_constant(each, computes)]


def _is_constant(value: fx.Node, computes: Callable[[fx.Node], bool]) -> bool:
    """Whether a value is computed from literals and sizes alone."""
    pending, seen = [value], set[fx.Node]()
    while pending:
        each = pending.pop()
        if each in seen or _is_number(each):
            continue
        seen.add(each)
        if not computes(each):
            return False
        pending += each.all_input_nodes
    return True


def _origins(
    graph: fx.Graph,
    reduced: Callable[[fx.Node], tuple[Any, list[fx.Node]]],
    computes: Callable[[fx.Node], bool],
) -> dict[fx.Node, set[Any]]:
    """The groups whose collectives each value comes from, through operators that compute."""
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
