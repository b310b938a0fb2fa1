"""Parts of rows that are summed without the rest: a rank's literals say which part it takes."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from spfast.reference.values import operator_name

__all__ = ["lone_parts"]

_SLICES = ("slice", "slice_copy")
_NARROWS = ("narrow", "narrow_copy")
_SELECTS = ("select", "select_copy")
_SPLITS = ("chunk", "split", "split_copy", "split_with_sizes", "split_with_sizes_copy", "unbind")
_INDICES = ("gather",)


def lone_parts(reached: Collection[fx.Node]) -> set[fx.Node]:
    """Returns the nodes that take parts of each row of a value, where they do not take all parts.

    Example:
        >>> lone_parts([])
        set()
    """
    found: set[fx.Node] = set()
    taken: dict[tuple[fx.Node, int], dict[fx.Node, range]] = {}
    for node in reached:
        space, _, op = operator_name(node).rpartition(".")[0].partition(".")
        if node.op != "call_function" or space != "aten" or not node.args:
            continue
        if op not in (*_SLICES, *_NARROWS, *_SELECTS, *_SPLITS, *_INDICES):
            continue
        at = 2 if op in _SPLITS and op != "unbind" else 1
        dim = node.args[at] if at < len(node.args) else node.kwargs.get("dim", 0)
        given = node.args[0]
        whole = given.meta.get("val") if isinstance(given, fx.Node) else None
        if (
            not isinstance(given, fx.Node)
            or not isinstance(whole, torch.Tensor)
            or type(dim) is not int
        ):
            continue
        dim += whole.dim() if dim < 0 else 0
        if not 0 < dim < whole.dim():
            continue  # along the tokens a part is some of the rows
        if op in _SPLITS:
            items = [user for user in node.users if user.target is operator.getitem]
            read = {item.args[1] for item in items if item in reached}
            if len(read) < len(node.meta["val"]):
                found.add(node)
        else:
            part = _range(node, op, whole.shape[dim])
            taken.setdefault((given, dim), {})[node] = part
    for (value, dim), parts in taken.items():
        size = value.meta["val"].shape[dim]
        covered = set().union(*parts.values())
        if type(size) is not int or len(covered) < size:
            found.update(parts)
    return found


def _range(node: fx.Node, op: str, size: Any) -> range:
    """The elements of a dim that a node takes; none where literals do not tell."""
    if type(size) is not int:
        return range(0)
    if op in _SLICES:
        first, end, step = (
            _literal(node, 2, "start", 0),
            _literal(node, 3, "end", size),
            _literal(node, 4, "step", 1),
        )
        if first is None or end is None or step != 1:
            return range(0)
        return range(*slice(first, end).indices(size))
    if op in _NARROWS:
        first, length = _literal(node, 2, "start", 0), _literal(node, 3, "length", 0)
        if first is None or length is None:
            return range(0)
        first += size if first < 0 else 0
        return range(first, first + length)
    if op in _SELECTS:
        at = _literal(node, 2, "index", 0)
        if at is None:
            return range(0)
        at += size if at < 0 else 0
        return range(at, at + 1)
    return range(0)


def _literal(node: fx.Node, position: int, keyword: str, absent: int) -> int | None:
    value = node.args[position] if position < len(node.args) else node.kwargs.get(keyword)
    if value is None:
        return absent
    return value if type(value) is int else None
