"""Which values of a graph some operator writes to in place, as far as schemas tell."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.operators import SIZE_ARITHMETIC, VIEWS
from spfast.fxgraph.targets import may_return_operand

__all__ = ["Writes", "may_write", "root_of"]

_aten = torch.ops.aten
_PURE_FUNCTIONS = SIZE_ARITHMETIC | {operator.getitem}


def root_of(node: fx.Node) -> fx.Node:
    """Follows views back to the value whose storage a node shows.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> root_of(graph.call_function(torch.ops.aten.view.default, (x, [4]))).name
        'x'
    """
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        if not (node.target is operator.getitem or _is_view(node.target)):
            break
        node = node.args[0]
    return node


def may_write(target: Any) -> bool:
    """Whether what a graph calls may write to what it is given.

    Example:
        >>> may_write(torch.ops.aten.mm.default), may_write(torch.ops.aten.add_.Tensor)
        (False, True)
    """
    if isinstance(target, torch._ops.HigherOrderOperator) or target in _PURE_FUNCTIONS:
        return False
    if not isinstance(target, torch._ops.OpOverload) or target.namespace == "c10d":
        return True
    return bool(target._schema.is_mutable)


class Writes:
    """The values of one graph that are written to, or may be; they are found when first asked for.

    Args:
        graph: The graph; it is not changed.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._roots: set[fx.Node] | None = None

    def touch(self, node: fx.Node) -> bool:
        """Whether the storage that a node shows is written to somewhere in the graph."""
        if self._roots is None:
            self._roots = _written_roots(self._graph)
        return root_of(node) in self._roots


def _is_view(target: Any) -> bool:
    if target in VIEWS:
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if may_return_operand(target):
        return True
    returns = target._schema.returns
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write


def _written_roots(graph: fx.Graph) -> set[fx.Node]:
    """The roots that are written to. A call that is no known operator counts as a write."""
    roots: set[fx.Node] = set()
    harmless: set[Any] = set()
    for node in graph.nodes:
        target: Any = node.target
        if node.op != "call_function":
            if node.op in ("call_module", "call_method"):
                roots.update(map(root_of, node.all_input_nodes))
            continue
        if target in harmless:
            continue
        if isinstance(target, torch._ops.HigherOrderOperator) or target in _PURE_FUNCTIONS:
            harmless.add(target)
        elif not isinstance(target, torch._ops.OpOverload) or target.namespace == "c10d":
            roots.update(map(root_of, node.all_input_nodes))
        elif not target._schema.is_mutable:
            harmless.add(target)
        else:
            for position, argument in enumerate(target._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    at = position < len(node.args)
                    operand = node.args[position] if at else node.kwargs.get(argument.name)
                    fx.map_arg(operand, lambda written: roots.add(root_of(written)))
    return roots
