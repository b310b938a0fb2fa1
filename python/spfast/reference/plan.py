"""The edits of a rewrite as data, and how they are made."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.journal import Journal
from spfast.fxgraph.strides import quiet_mode
from spfast.fxgraph.tensor_meta import tensor_metas

__all__ = ["New", "Plan", "Ref"]

aten = torch.ops.aten

_SIZE_ARITHMETIC = (
    aten.sym_size.int,
    operator.mul,
    operator.add,
    operator.sub,
    operator.floordiv,
    operator.mod,
)

# The entries of a node's meta that describe its value, and not where the node came from.
_OF_THE_VALUE = ("val", "tensor_meta", "eager_input_vals", "unbacked_bindings")


@dataclass(eq=False)
class New:
    """A node to be created.

    Attributes:
        target: What it calls.
        args: Its arguments, in which other new nodes may stand.
        kwargs: Likewise.
        before: The node before which it stands, after the nodes that were planned there earlier.
        origin: The node whose stack trace and the like it takes over.
    """

    target: Any
    args: tuple[Any, ...]
    before: fx.Node
    origin: fx.Node
    kwargs: dict[str, Any] = field(default_factory=dict)


Ref = fx.Node | New


@dataclass
class Plan:
    """Every edit.

    Attributes:
        created: The new nodes, in the order in which they are made.
        reads: For each user, the nodes that it read, each with what it reads instead.
        dims: For a node, the positions of arguments that name the last dim and become -1.
        resized: The nodes that carry a local value.
        erased: The nodes that go, users first.
    """

    created: list[New] = field(default_factory=list)
    reads: dict[fx.Node, dict[fx.Node, Ref]] = field(default_factory=dict)
    dims: dict[fx.Node, list[int]] = field(default_factory=dict)
    resized: list[fx.Node] = field(default_factory=list)
    erased: list[fx.Node] = field(default_factory=list)

    def operands(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments and keyword arguments that the node will have."""
        reads = self.reads.get(node, {})
        args, kwargs = _map_refs(
            (node.args, dict(node.kwargs)),
            lambda ref: reads.get(ref, ref) if isinstance(ref, fx.Node) else ref,
        )
        changed = list(args)
        for position in self.dims.get(node, ()):
            changed[position] = [-1] if isinstance(changed[position], (list, tuple)) else -1
        return tuple(changed), dict(kwargs)

    def erase_dead(self, graph: fx.Graph, may_die: set[fx.Node]) -> None:
        """Erases those nodes that nobody reads any more, users first, and their size arithmetic."""
        uses: dict[fx.Node, int] = {}

        def count(arguments: Any, step: int) -> None:
            held: set[fx.Node] = set()
            _map_refs(arguments, lambda ref: held.add(ref) if isinstance(ref, fx.Node) else None)
            for node in held:
                uses[node] = uses.get(node, 0) + step

        for node in graph.nodes:
            count(self.operands(node), 1)
        for new in self.created:
            count((new.args, new.kwargs), 1)
        for node in reversed(graph.nodes):
            if node not in may_die or uses.get(node, 0):
                continue
            self.erased.append(node)
            count(self.operands(node), -1)
            for operand in node.all_input_nodes:
                if operand.target in _SIZE_ARITHMETIC and not uses.get(operand, 0):
                    may_die.add(operand)

    def values(self, graph: fx.Graph) -> dict[Ref, Any]:
        """What FakeTensorMode computes for every new and resized node.

        Cuts are computed otherwise: torch 2.11 gives the rows between two symbolic bounds a new
        size that no expression tells.
        """
        created: dict[fx.Node, list[New]] = {}
        for new in self.created:
            created.setdefault(new.before, []).append(new)
        resized = set(self.resized)
        erased = set(self.erased)
        values: dict[Ref, Any] = {}

        def value_of(ref: Ref) -> Any:
            return values[ref] if ref in values else ref.meta["val"]  # type: ignore[union-attr]

        with quiet_mode(graph):
            for node in graph.nodes:
                for new in created.get(node, ()):
                    args, kwargs = _map_refs((new.args, new.kwargs), value_of)
                    cut = new.target is aten.slice.Tensor
                    values[new] = _rows(*args) if cut else new.target(*args, **kwargs)
                if node in resized and node not in erased:
                    args, kwargs = _map_refs(self.operands(node), value_of)
                    values[node] = node.target(*args, **kwargs)
        return values

    def carry_out(self, graph: fx.Graph, values: dict[Ref, Any]) -> None:
        """Makes the edits; whatever fails, the graph is as it was.

        Args:
            graph: The graph.
            values: What each new and resized node yields, from :meth:`values`.
        """
        journal = Journal(graph)
        made: dict[New, fx.Node] = {}
        note = journal.entries.append

        def now(ref: Ref) -> fx.Node:
            return made[ref] if isinstance(ref, New) else ref

        for node in graph.nodes:
            note(("operands", node, node.args, node.kwargs))
            note(("users", node.users, dict(node.users)))
            note(("meta", node.meta, dict(node.meta)))
        try:
            for new in self.created:
                args, kwargs = _map_refs((new.args, new.kwargs), now)
                with graph.inserting_before(new.before):
                    node = made[new] = graph.call_function(new.target, args, kwargs)
                note(("create", node))
                origin = new.origin.meta
                node.meta.update({k: v for k, v in origin.items() if k not in _OF_THE_VALUE})
                node.meta["val"] = values[new]
            for node in dict.fromkeys((*self.reads, *self.dims)):
                args, kwargs = _map_refs(self.operands(node), now)
                node.args, node.kwargs = args, kwargs
            for node in self.resized:
                node.meta["val"] = values[node]
                (described,) = tensor_metas([node], [values[node]])
                if described is not None:
                    node.meta["tensor_meta"] = described
            for node in self.erased:
                note(("erase", node, node._prev, node._next, node._sort_key))
                graph.erase_node(node)
        except BaseException:
            journal.undo()
            raise


def _rows(full: torch.Tensor, dim: int, start: Any, end: Any) -> torch.Tensor:
    """The rows between two bounds that are known to lie within a value."""
    sizes = [*full.shape[:dim], end - start, *full.shape[dim + 1 :]]
    offset = full.storage_offset() + start * full.stride(dim)
    return full.as_strided(sizes, full.stride(), offset)


def _map_refs(value: Any, function: Callable[[Ref], Any]) -> Any:
    """Applies a function to every node, old or new, in nested arguments."""
    return fx.node.map_aggregate(
        value, lambda leaf: function(leaf) if isinstance(leaf, (fx.Node, New)) else leaf
    )
