"""Parts of every row that are summed without the rest: a rank's literals say which part it takes.

Each rank takes, of a value that all ranks share, the features that go with its rows of a weight.
Then the results are summed over the ranks. If all ranks took the same part, the sum would be for
nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from spfast.verifier.across import OTHER_AFTER, SAME_AFTER, Does
from spfast.verifier.kinds import operator_name
from spfast.verifier.ranks import Call
from spfast.verifier.snapshot import Entry

__all__ = ["has_parts", "parts_shown_by_readers"]

# Operators that take parts of a value, each with the position of the dim along which it does so.
_SPLITS = {"chunk": 2, "split": 2, "split_with_sizes": 2, "unbind": 1}
_PARTS = {**_SPLITS, "gather": 1, "narrow": 1, "select": 1, "slice": 1}


def has_parts(entries: Sequence[Entry]) -> bool:
    """Whether a graph takes parts of values at all."""
    return any(_name(entry[2]) in _PARTS for entry in entries)


def _name(target: Any) -> str:
    name = operator_name(target).removeprefix("aten::").partition(".")[0]
    return name.removesuffix("_copy")


def _lone_parts(entries: Sequence[Entry], reached: Collection[fx.Node]) -> set[fx.Node]:
    """The reached nodes that take parts along the features, where they do not take all of them."""
    vals = {entry[0]: entry[5] for entry in entries}
    taken: dict[tuple[fx.Node, int], dict[fx.Node, Collection[int]]] = {}
    split: dict[fx.Node, set[object]] = {}
    for node, _, target, args, kwargs, _ in entries:
        if node not in reached:
            continue
        if target is operator.getitem and args[0] in split:
            split[args[0]].discard(args[1])
        name = _name(target)
        if name not in _PARTS or not args or not isinstance(args[0], fx.Node):
            continue
        whole, at = vals[args[0]], _PARTS[name]
        dim = args[at] if at < len(args) else kwargs.get("dim", 0)
        rank = whole.dim() if isinstance(whole, torch.Tensor) else 0
        if not isinstance(dim, int) or not 0 < dim % max(rank, 1):
            continue
        if name in _SPLITS:
            split[node] = set(range(len(vals[node])))
            continue
        size = whole.shape[dim]
        is_told = isinstance(size, int) and name != "gather"
        given = _given(target, args, kwargs) if is_told else None
        part = () if given is None else _elements(name, given, size)
        taken.setdefault((args[0], dim % rank), {})[node] = part
    found = {node for node, unread in split.items() if unread}
    for (value, dim), parts in taken.items():
        size = vals[value].shape[dim]
        covered = set[int]().union(*parts.values())
        if not isinstance(size, int) or len(covered) < size:
            found.update(parts)
    return found


def _given(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int | None] | None:
    """What an operator is given after the dim; None where that is no literal."""
    names = [argument.name for argument in target._schema.arguments][2:]
    values = [*args[2:], *(kwargs.get(each) for each in names[len(args[2:]) :])]
    return values if all(value is None or type(value) is int for value in values) else None


def _elements(name: str, given: list[int | None], size: int) -> Collection[int]:
    """Which elements along the dim are taken."""
    if name == "slice":
        return range(size)[slice(*given)]
    first = given[0] or 0
    length = 1 if name == "select" else given[1] or 0
    return range(size)[first:][:length]


def parts_shown_by_readers(
    entries: Sequence[Entry],
    calls: Sequence[Call],
    is_among: Callable[[str | None], bool],
) -> dict[fx.Node, str]:
    """The parts that a collective shows to be different on each rank, with the collective's name.

    Args:
        entries: The graph.
        calls: Its nodes but for the output, in order.
        is_among: Whether a group is the one that is asked for, or lies within it.
    """
    by_node = {call.node: call for call in calls}
    operands = {entry[0]: list(_operands(entry)) for entry in entries}
    origin: set[fx.Node] = set()  # what is computed of what such a group reduced or gathered
    for call in calls:
        if call.what.group is not None:
            if is_among(call.group):
                origin.add(call.node)
        elif _computes(call) and not origin.isdisjoint(operands[call.node]):
            origin.add(call.node)
    given: dict[fx.Node, str] = {}
    seen: dict[bool, set[fx.Node]] = {True: set(), False: set()}
    for call in calls:
        if call.exchange is None or not is_among(call.exchange.group):
            continue
        by_all = call.exchange.changes_equal_values
        pending = list(operands[call.node])
        while pending:
            node = pending.pop()
            made = by_node.get(node)
            if node in seen[by_all] or made is None or not _computes(made):
                continue
            seen[by_all].add(node)
            given.setdefault(node, call.node.name)
            if by_all or made.row_wise:
                pending += operands[node]
    lone = _lone_parts(entries, given)
    return {node: name for node, name in given.items() if node in lone and node in origin}


def _computes(call: Call) -> bool:
    """Whether ranks with equal operands get equal results."""
    if call.op != "call_function" or call.what.group is not None:
        return False
    return call.what.does not in (Does.ANYTHING, *SAME_AFTER, *OTHER_AFTER)


def _operands(entry: Entry) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg((entry[3], entry[4]), found.append)
    yield from found
