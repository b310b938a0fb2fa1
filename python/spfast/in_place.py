"""Who sees the memory that a collective writes to, besides those who read its result."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

__all__ = ["Sharing"]

_OUTSIDE = {
    "placeholder": "which is an input of the graph",
    "get_attr": "which the graph's module holds",
}


class Sharing:
    """Which values of a graph share their memory, by the operators' schemas.

    A write that nobody else sees is none: the graph computes the same if the operator returns its
    result on memory of its own.

    A rank may have an elementwise operator more than others have: a bias that it adds to its
    partial sum. So that all ranks come to the same answer, what such an operator yields counts as
    seen wherever its operands are: they are what is written to where it is left out.

    Args:
        graph: The graph; it is not changed.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._position: dict[fx.Node, int] = {}
        self._seen: dict[fx.Node, str] = {}  # values whose memory is known to be seen, and by whom

    def who_sees(self, call: fx.Node, written: Sequence[fx.Node]) -> str:
        """Why a call's writes are seen; "" where only the readers of its result see them.

        Args:
            call: A node that writes to its operands and returns them.
            written: These operands.
        """
        if not self._position:
            self._position = {node: place for place, node in enumerate(self._graph.nodes)}
        names = dict.fromkeys(written)
        pending = list(names)
        reason = ""
        while pending and not reason:
            name = pending.pop()
            reason = self._seen.get(name) or self._who_sees_name(call, name)
            for other in () if reason else _sharing(name):
                if other is not call and other not in names:
                    names[other] = None
                    pending.append(other)
        if reason:
            self._seen.update(dict.fromkeys(names, reason))
        return reason

    def _who_sees_name(self, call: fx.Node, name: fx.Node) -> str:
        if not _is_operator(name):
            what = _OUTSIDE.get(name.op, "whose memory may be seen by others")
            return f"it writes to %{name.name}, {what}"
        for user in name.users:
            if user is call:
                continue
            if self._position[user] > self._position[call]:
                return f"it writes to memory of %{name.name}, which %{user.name} reads afterwards"
            if not _is_operator(user):
                return f"it writes to memory of %{name.name}, which %{user.name} may keep"
        return ""


def _sharing(name: fx.Node) -> Iterator[fx.Node]:
    """What a value is a view of, or may be another rank's name for, and the views of it."""
    if _may_view(name):
        yield from _viewed(name)
    elif _is_elementwise(name):
        yield from (operand for operand in name.all_input_nodes if _is_alike(operand, name))
    for user in name.users:
        if _may_view(user):
            yield user


def _is_operator(node: fx.Node) -> bool:
    """Whether the schema of what a node calls says all about the memory of its result."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace != "c10d"


def _viewed(node: fx.Node) -> Iterator[fx.Node]:
    """The operands of whose memory the result may be."""
    target: Any = node.target
    arguments = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else []
    named = {
        argument.name: node.args[place] if place < len(node.args) else None
        for place, argument in enumerate(arguments)
        if argument.alias_info is not None
    }
    found: list[fx.Node] = []
    held = [node.kwargs.get(name, given) for name, given in named.items()]
    fx.node.map_arg(held, found.append)
    yield from found or node.all_input_nodes


def _is_elementwise(node: fx.Node) -> bool:
    if node.target is torch.ops.aten.clone.default:
        return False  # it is there so that nobody writes to what it copies
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _is_alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether one value may stand where another does: it has the same sizes, or none are known."""
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return a is None or b is None
    return a.dtype == b.dtype and tuple(map(str, a.shape)) == tuple(map(str, b.shape))


def _may_view(node: fx.Node) -> bool:
    target: Any = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target._schema.name.endswith("::wait_tensor"):
        return True
    if any(result.alias_info is not None for result in target._schema.returns):
        return True
    # What is made of other operators says nothing about what it returns.
    return torch._C._dispatch_has_kernel_for_dispatch_key(target._name, "CompositeImplicitAutograd")
