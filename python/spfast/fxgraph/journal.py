"""Takes a half-done rewrite back: the steps that the native commit noted are undone in reverse.

This touches only the links, tables and dictionaries that FX keeps, and calls none of its editing
methods. Whatever made an edit fail must not make its undoing fail, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import fx

__all__ = ["Journal", "undo_all"]


# FX moves a node to the end of its tables whenever one of its attributes is set by assignment.
_set = object.__setattr__


class Journal:
    """The notes of one rewrite of one graph.

    Attributes:
        entries: One tuple a step, in order: ``("operands", node, args, kwargs)``,
            ``("users", dict, copy)`` (of any dict of nodes that has an order),
            ``("meta", dict, copy)``, ``("create", node)``,
            ``("erase", node, prev, next, sort_key)``, ``("move", node, prev, next, sort_key)``,
            ``("rename", node, name, listed)``. Each is noted before the step; only a creation is
            noted once the node exists.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> journal = Journal(graph)
        >>> node = graph.call_function(abs, (x,))
        >>> journal.entries.append(("create", node))
        >>> journal.undo()
        >>> [node.name for node in graph.nodes]
        ['x']
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.entries: list[tuple[Any, ...]] = []
        self._graph = graph
        self._length = graph._len
        self._base_count = dict(graph._graph_namespace._base_count)
        self._named = len(graph._graph_namespace._obj_to_name)
        self._created: set[fx.Node] = set()  # of the entries looked at so far
        self._looked_at = 0

    def note_order(self, node: fx.Node) -> None:
        """Notes the order in which FX finds ``node`` and its like, before one of them goes."""
        lookup = self._graph._find_nodes_lookup_table
        found = lookup.table[lookup._key(node)]
        fresh = self.entries[self._looked_at :]
        self._created.update(entry[1] for entry in fresh if entry[0] == "create")
        self._looked_at = len(self.entries)
        created = self._created
        self.entries.append(("users", found, {n: None for n in found if n not in created}))

    def rename(self, node: fx.Node, name: str) -> None:
        """Gives a node a name that no other has, and notes its old name.

        The namespace may have another name for the node: torch.export renames nodes without it.
        """
        listed = self._graph._graph_namespace._obj_to_name.get(node)
        self.entries.append(("rename", node, node.name, listed))
        self._name(node, name, name)

    def undo(self, nodes: Collection[fx.Node] | None = None) -> None:
        """Restores the graph to what it was when the journal was begun.

        Args:
            nodes: The nodes that the graph had then. Give them where a step may have failed before
                it was noted.
        """
        if nodes is not None:
            self._sweep(set(nodes))
        for kind, *saved in reversed(self.entries):
            if kind == "create":
                self._remove(saved[0])
            elif kind == "erase":
                self._put_back(*saved)
            elif kind == "move":
                _unlink(saved[0])
                self._put_back(*saved)
            elif kind == "operands":
                node, args, kwargs = saved
                node._update_args_kwargs(args, kwargs)
            elif kind == "meta":
                _restore(*saved)
            elif kind == "rename":
                self._name(*saved)
        self._graph._len = self._length
        # Dicts with an order come last: the steps before append what they restore at the end.
        for kind, *saved in self.entries:
            if kind == "users":
                _restore(*saved)
        self._forget_names()

    def _name(self, node: fx.Node, name: str, listed: str | None) -> None:
        _set(node, "name", name)
        if listed is not None:
            self._graph._graph_namespace._obj_to_name[node] = listed

    def _sweep(self, known: set[fx.Node]) -> None:
        """Unlinks a node that got into the list but was never noted."""
        known.update(entry[1] for entry in self.entries if entry[0] == "create")
        root = self._graph._root
        node = root._next
        while node is not root:
            after = node._next
            if node not in known:
                self._remove(node)
            node = after

    def _remove(self, node: fx.Node) -> None:
        node._update_args_kwargs((), {})
        _unlink(node)
        table = self._graph._find_nodes_lookup_table
        if node in table:
            table.remove(node)
        _set(node, "_erased", True)

    def _put_back(self, node: fx.Node, before: fx.Node, after: fx.Node, sort_key: Any) -> None:
        table = self._graph._find_nodes_lookup_table
        if before._next is not node:
            _set(before, "_next", node)
            _set(after, "_prev", node)
            _set(node, "_prev", before)
            _set(node, "_next", after)
            _set(node, "_sort_key", sort_key)
        if node not in table:
            table.insert(node)
        _set(node, "_erased", False)

    def _forget_names(self) -> None:
        names = self._graph._graph_namespace
        # The names of new nodes come last, also that of a node whose creation failed half way.
        while len(names._obj_to_name) > self._named:
            names._obj_to_name.popitem()
        taken = set(names._obj_to_name.values())
        for base, count in list(names._base_count.items()):
            first = self._base_count.get(base)
            if first == count:
                continue
            made = [f"{base}_{i}" for i in range((first or 0) + 1, count + 1)]
            if first is None:
                made.append(base)
                del names._base_count[base]
            else:
                names._base_count[base] = first
            names._used_names.difference_update(name for name in made if name not in taken)


def undo_all(journals: Iterable[Journal]) -> None:
    """Takes back what several journals noted, the latest first.

    Example:
        >>> undo_all([Journal(fx.Graph())])
    """
    for journal in reversed(list(journals)):
        journal.undo()


def _unlink(node: fx.Node) -> None:
    before, after = node._prev, node._next
    _set(before, "_next", after)
    _set(after, "_prev", before)
    _set(node, "_prev", node)
    _set(node, "_next", node)


def _restore(live: dict[Any, Any], copy: dict[Any, Any]) -> None:
    live.clear()
    live.update(copy)
