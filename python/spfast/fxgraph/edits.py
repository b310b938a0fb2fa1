"""Edits of a graph from Python, each noted before it is made so that the journal takes it back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_arg

from spfast import _core
from spfast.fxgraph.journal import Journal

__all__ = ["Edits"]

# The entries of a node's meta that describe its value, and not where the node came from.
_VALUE = ("val", "tensor_meta")
_OF_THE_VALUE = (*_VALUE, "eager_input_vals", "unbacked_bindings")


class Edits:
    """Edits one graph.

    Attributes:
        journal: Takes back all that was done through this object.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> y = graph.call_function(abs, (x,))
        >>> edits = Edits(graph)
        >>> edits.replace_uses(y, x)
        >>> edits.erase(y)
        >>> edits.journal.undo()
        >>> [node.name for node in graph.nodes]
        ['x', 'abs_1']
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.journal = Journal(graph)
        self._graph = graph
        self._editor = _core.GraphEditor(graph)
        self._noted: set[tuple[str, fx.Node]] = set()
        self._tables: set[Any] = set()

    def create(
        self,
        before: fx.Node,
        target: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        origin: fx.Node,
        value_of: fx.Node | None = None,
    ) -> fx.Node:
        """Makes a node that calls ``target`` and stands before another.

        Args:
            before: Where it stands.
            target: What it calls.
            args: Its operands by position.
            kwargs: Its operands by keyword.
            origin: The node that it comes from, whose ``meta`` it gets.
            value_of: A node with a value of the same description; None: ``origin``, in whose stead
                the new node stands.
        """
        map_arg((args, dict(kwargs)), self._note_users)
        with self._graph.inserting_before(before):
            node = self._graph.create_node("call_function", target, args, dict(kwargs))
        self.journal.entries.append(("create", node))
        node.meta.update(
            {key: item for key, item in origin.meta.items() if key not in _OF_THE_VALUE}
        )
        if value_of is None:
            node.meta.update({key: origin.meta[key] for key in _VALUE if key in origin.meta})
        else:
            _describe(node, value_of)
        return node

    def finish(self) -> None:
        """Updates the length that the graph keeps."""
        self._editor.finish()

    def set_operands(self, node: fx.Node, args: Sequence[Any]) -> None:
        """Lets a node read other operands by position."""
        self._note_operands(node)
        map_arg(tuple(args), self._note_users)
        node._update_args_kwargs(tuple(args), node.kwargs)

    def set_value(self, node: fx.Node, like: fx.Node) -> None:
        """Describes a node's value as another's is described."""
        self.journal.entries.append(("meta", node.meta, dict(node.meta)))
        for key in _VALUE:
            node.meta.pop(key, None)
        _describe(node, like)

    def take_value(self, node: fx.Node, of: fx.Node) -> None:
        """Gives a node the very value of another that it replaces: views share that memory."""
        self.journal.entries.append(("meta", node.meta, dict(node.meta)))
        for key in _VALUE:
            node.meta.pop(key, None)
            if key in of.meta:
                node.meta[key] = of.meta[key]

    def replace_uses(self, old: fx.Node, new: fx.Node) -> None:
        """Lets all that read one node read another."""
        self._note_users(old)
        self._note_users(new)
        for user in list(old.users):
            self.replace_input(user, old, new)

    def replace_input(self, user: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Lets one node read another one."""
        self._note_users(old)
        self._note_users(new)
        self._note_operands(user)
        self._editor.replace_input(user, old, new)

    def move(self, node: fx.Node, before: fx.Node) -> None:
        """Puts a node before another one."""
        self.journal.entries.append(("move", node, node._prev, node._next, node._sort_key))
        before.prepend(node)

    def erase(self, node: fx.Node) -> None:
        """Takes a node without users out of the graph."""
        self._note_operands(node)
        if node.target not in self._tables:
            self._tables.add(node.target)
            self.journal.note_order(node)
        self.journal.entries.append(("erase", node, node._prev, node._next, node._sort_key))
        self._editor.erase(node)

    def _note_operands(self, node: fx.Node) -> None:
        if ("operands", node) not in self._noted:
            self._noted.add(("operands", node))
            for operand in node.all_input_nodes:
                self._note_users(operand)
            self.journal.entries.append(("operands", node, node.args, node.kwargs))

    def _note_users(self, node: fx.Node) -> fx.Node:
        if ("users", node) not in self._noted:
            self._noted.add(("users", node))
            self.journal.entries.append(("users", node.users, dict(node.users)))
        return node


def _describe(node: fx.Node, like: fx.Node) -> None:
    """Gives a node a value of its own, with the shape, strides and dtype of another node's."""
    value = like.meta["val"]
    with contextlib.ExitStack() as stack:
        if isinstance(value, FakeTensor) and value.fake_mode.shape_env is not None:
            stack.enter_context(value.fake_mode.shape_env.suppress_guards())
        node.meta["val"] = value.new_empty_strided(value.shape, value.stride())
    if "tensor_meta" in like.meta:
        node.meta["tensor_meta"] = like.meta["tensor_meta"]
