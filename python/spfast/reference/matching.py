"""Which rule holds at which all_reduce, found by trying every pattern on every candidate."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from spfast.patterns.dialect import CollectiveFamily
from spfast.patterns.model import Fixed, Form, Literal, Location, Operand, Pattern
from spfast.reference.values import operator_name, root, shape_of, users_by_any_name

__all__ = ["Anchor", "Match", "find_anchors", "find_matches"]

_ABSENT = object()


@dataclass(frozen=True)
class Anchor:
    """One all_reduce of the graph.

    Attributes:
        all_reduce: The node.
        reduced: The node that yields the value: the all_reduce or its wait; None where something
            besides the wait reads the all_reduce.
        family: The family of its collectives.
        group: The group argument of the node, or empty where it has none; None where the group or
            another argument is not given by position.
    """

    all_reduce: fx.Node
    reduced: fx.Node | None
    family: CollectiveFamily
    group: Any


@dataclass(frozen=True)
class Match:
    """One rule that holds at one all_reduce.

    Attributes:
        pattern: The variant of the rule.
        anchor: The all_reduce.
        operations: The nodes, by operation of the pattern; the first is the reduced value.
        parameters: What the pattern's parameters stand for, by index.
        shorter: Matches of a part of these nodes, for where the whole cannot be sharded; the best
            is first.
    """

    pattern: Pattern
    anchor: Anchor
    operations: dict[int, fx.Node]
    parameters: dict[int, Any]
    shorter: tuple[Match, ...] = ()


def find_anchors(graph: fx.Graph, families: Sequence[CollectiveFamily]) -> list[Anchor]:
    """Every all_reduce, in graph order."""
    by_name = {family.all_reduce: family for family in families}
    found = []
    for node in graph.nodes:
        family = by_name.get(operator_name(node))
        if family is not None:
            last = max(family.reduce_op, 0 if family.group is None else family.group)
            given = len(node.args) > last and isinstance(node.args[0], fx.Node)
            group: Any = None
            if given:
                group = "" if family.group is None else node.args[family.group]
            found.append(Anchor(node, _reduced(node, family), family, group))
    return found


def _reduced(node: fx.Node, family: CollectiveFamily) -> fx.Node | None:
    if family.wait is None:
        return node
    users = list(node.users)
    return users[0] if len(users) == 1 and operator_name(users[0]) == family.wait else None


def find_matches(
    graph: fx.Graph, patterns: Sequence[Pattern], anchors: Sequence[Anchor]
) -> tuple[list[Match], dict[fx.Node, str]]:
    """Settles which match each all_reduce gets.

    At one all_reduce the rule of highest priority wins, then the longest match, then the match that
    comes first in the graph. A shorter match that is part of the winner takes its place where fewer
    values have to be gathered then. Two matches may want one operation, such as an add of two
    all_reduces. It goes to the later one, for there the value of the earlier one is the residual.

    Returns:
        The matches in graph order, and for each all_reduce without one the reason.
    """
    position = {node: index for index, node in enumerate(graph.nodes)}

    def rank(match: Match) -> Any:
        size = len(match.operations)
        places = [position[match.operations[i]] for i in range(size)]
        return (-match.pattern.priority, -size, places)

    matches: list[Match] = []
    reasons: dict[fx.Node, str] = {}
    claimed: set[fx.Node] = set()
    for anchor in reversed(anchors):
        reason = _unusable(anchor)
        if reason:
            reasons[anchor.all_reduce] = reason
            continue
        found = [match for pattern in patterns for match in _Matcher(pattern, anchor).matches()]
        free = [match for match in found if claimed.isdisjoint(depending(match))]
        if free:
            best = min(free, key=rank)
            parts = [match for match in free if match is best or _is_part(match, best)]
            best = min(parts, key=lambda match: (_gathers(match, claimed), rank(match)))
            claimed.update(depending(best))
            shorter = sorted((match for match in free if _is_part(match, best)), key=rank)
            matches.append(replace(best, shorter=tuple(shorter)))
        elif found:
            reasons[anchor.all_reduce] = "another all_reduce's site has the operations that read it"
        else:
            reasons[anchor.all_reduce] = "no rule matches what reads it"
    return matches[::-1], reasons


def _unusable(anchor: Anchor) -> str:
    if anchor.group is None:
        return "its tensor, its group or its reduce op is not given by position"
    if isinstance(anchor.group, (fx.Node, list, tuple, dict, slice)):
        return "its group is computed in the graph: only the ranks of a constant one are known"
    if anchor.reduced is None:
        return "its result is not read by one wait_tensor alone"
    shape = shape_of(anchor.all_reduce)
    if shape is None or len(shape) < 2 or not (len(shape) == 2 or isinstance(shape[-1], int)):
        return (
            "its size is not known, or it has no token dim: "
            'meta["val"] of the all_reduce must be a tensor of two dims, '
            "or of more whose last one is a plain number"
        )
    return ""


def depending(match: Match) -> set[fx.Node]:
    """The operations that read the reduced value, or what was made of it."""
    operations = match.pattern.operations
    depend = {0}
    for index, operation in enumerate(operations):
        if any(o.kind == "operation" and o.index in depend for o in operation.operands):
            depend.add(index)
    return {match.operations[index] for index in depend - {0}}


def _is_part(part: Match, whole: Match) -> bool:
    return set(part.operations.values()) < set(whole.operations.values())


def _gathers(match: Match, claimed: set[fx.Node]) -> int:
    """How many values of the match have readers outside it that need them in full."""
    assert match.anchor.reduced is not None
    width = int(match.anchor.all_reduce.meta["val"].shape[-1])
    inside = {root(match.anchor.reduced, width), *depending(match)}
    # Each result of an operation with several is a value of its own.
    for node in depending(match):
        inside.update(user for user in node.users if user.target is operator.getitem)

    def in_full(user: fx.Node) -> bool:
        # Any value of the same size tells the size, and an empty buffer holds nothing of the value.
        told = operator_name(user) in ("aten.sym_size.int", "aten.empty_like.default")
        return not told and user not in inside and user not in claimed

    readers = {value: users_by_any_name(value, width) for value in inside}
    return sum(
        any(in_full(user) and root(user, width) is user for user in users)
        for users in readers.values()
    )


# --- one pattern at one all_reduce ----------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What is known so far: nodes by operation, values by parameter."""

    operations: dict[int, fx.Node]
    parameters: dict[int, Any]

    def with_operation(self, index: int, node: fx.Node) -> _Found:
        return replace(self, operations={**self.operations, index: node})

    def with_parameter(self, index: int, value: Any) -> _Found:
        return replace(self, parameters={**self.parameters, index: value})


class _Matcher:
    """Tries one pattern at one all_reduce."""

    def __init__(self, pattern: Pattern, anchor: Anchor) -> None:
        self._pattern = pattern
        self._anchor = anchor
        self._width = int(anchor.all_reduce.meta["val"].shape[-1])

    def matches(self) -> Iterator[Match]:
        assert self._anchor.reduced is not None
        start = _Found({0: self._anchor.reduced}, {})
        for found in self._continue(1, start):
            yield Match(self._pattern, self._anchor, found.operations, found.parameters)

    def _continue(self, index: int, found: _Found) -> Iterator[_Found]:
        """Finds the operations from ``index`` on."""
        if index == len(self._pattern.operations):
            yield found
            return
        operands = self._pattern.operations[index].operands
        read = [o.index for o in operands if o.kind == "operation" and o.index in found.operations]
        if index in found.operations or not read:
            # An operation that reads this one finds it, or has found it already.
            rest = self._continue(index + 1, found)
            yield from (one for one in rest if index in one.operations)
            return
        for user in users_by_any_name(found.operations[max(read)], self._width):
            for one in self._operation(index, user, found):
                yield from self._continue(index + 1, one)

    def _operation(self, index: int, node: fx.Node, found: _Found) -> Iterator[_Found]:
        """Every way in which ``node`` is the operation."""
        operation = self._pattern.operations[index]
        name = operator_name(node)
        for form in operation.forms:
            if form.target != name or not _rest_is_default(form, node):
                continue
            orders = [form.where]
            if operation.commutative:
                orders.append((form.where[1], form.where[0], *form.where[2:]))
            for where in orders:
                ways = [found.with_operation(index, node)]
                for operand, location in zip(operation.operands, where, strict=True):
                    value = _fetch(node, location)
                    ways = [
                        more for way in ways for more in self._operand(operand, value, node, way)
                    ]
                yield from ways

    def _operand(
        self, operand: Operand, value: Any, reader: fx.Node, found: _Found
    ) -> Iterator[_Found]:
        if operand.kind == "ignored":
            yield found
        elif operand.kind == "literal":
            dims = _dims_of_first(reader)
            if any(_is_literal(value, literal, dims) for literal in operand.literals):
                yield found
        elif operand.kind == "parameter":
            value = None if value is _ABSENT else value
            if operand.index not in found.parameters:
                yield found.with_parameter(operand.index, value)
            elif self._same(found.parameters[operand.index], value):
                yield found
        elif isinstance(value, fx.Node):
            if operand.index in found.operations:
                if self._same(found.operations[operand.index], value):
                    yield found
            else:
                yield from self._operation(operand.index, root(value, self._width), found)

    def _same(self, known: Any, value: Any) -> bool:
        if isinstance(known, fx.Node) and isinstance(value, fx.Node):
            return root(known, self._width) is root(value, self._width)
        return type(known) is type(value) and bool(known == value)


# --- arguments ------------------------------------------------------------------------------------


def _fetch(node: fx.Node, where: Location) -> Any:
    value: Any = _ABSENT
    if 0 <= where.position < len(node.args):
        value = node.args[where.position]
    elif where.keyword:
        value = node.kwargs.get(where.keyword, _ABSENT)
    if where.item < 0:
        return value
    items = value if isinstance(value, (list, tuple)) else ()
    return items[where.item] if where.item < len(items) else _ABSENT


def _rest_is_default(form: Form, node: fx.Node) -> bool:
    """Whether every argument that is no operand is absent, or as the form says."""

    def holds(fixed: Fixed) -> bool:
        value = _fetch(node, fixed.where)
        if value is _ABSENT:
            return not fixed.required
        return _is_literal(value, fixed.literal, 0)

    places = [*form.where, *(fixed.where for fixed in form.fixed)]
    positions = {place.position for place in places}
    keywords = {place.keyword for place in places}
    return (
        all(map(holds, form.fixed))
        and positions.issuperset(range(len(node.args)))
        and keywords.issuperset(node.kwargs)
    )


def _dims_of_first(node: fx.Node) -> int:
    """How many dims the first tensor has that the node reads."""
    shape = shape_of(node.all_input_nodes[0]) if node.all_input_nodes else None
    return len(shape) if shape is not None else 0


def _is_literal(value: Any, literal: Literal, dims: int) -> bool:
    tag, wanted = literal.tag, literal.value
    if tag == "last_dim":
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        return type(value) is int and value in (-1, dims - 1)
    if tag in ("int", "float"):
        return type(value) in (int, float) and bool(value == wanted)
    if tag == "none":
        return value is None
    if tag == "bool":
        return type(value) is bool and value == wanted
    if tag == "string":
        return type(value) is str and value == wanted
    if tag == "list":
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(literal.items)
            and all(
                _is_literal(v, item, dims) for v, item in zip(value, literal.items, strict=True)
            )
        )
    kinds: dict[str, tuple[type, ...]] = {
        "dtype": (torch.dtype,),
        "device": (torch.device,),
        "const": (torch.layout, torch.memory_format),
    }
    return isinstance(value, kinds[tag]) and str(value) == wanted
