"""A cheap picture of a graph, taken before a pass changes it in place."""

from __future__ import annotations

from typing import Any

from torch import fx

from spfast.fxgraph.crossings import Crossing, crossings
from spfast.fxgraph.graphs import called_graphs, graph_of

__all__ = ["Entry", "Snapshot", "snapshot"]

# node, op, target, args, kwargs, meta["val"]
Entry = tuple[fx.Node, str, Any, tuple[Any, ...], dict[str, Any], Any]


class Snapshot:
    """What every node of a graph was: operator, arguments and meta["val"], by reference.

    FX replaces a node's arguments as a whole and never changes them in place, so references are
    enough; nothing is copied. Nodes that are erased later stay readable here.

    Attributes:
        entries: The nodes.
        called: Snapshots of the graphs that it calls, by path; None where no module tells which.
        crossings: The values that go from one of all these graphs into another.
    """

    __slots__ = ("called", "crossings", "entries")

    def __init__(
        self,
        entries: list[Entry],
        called: dict[str, Snapshot] | None,
        crossings: tuple[Crossing, ...] = (),
    ) -> None:
        self.entries = entries
        self.called = called
        self.crossings = crossings

    def __len__(self) -> int:
        return len(self.entries)


def snapshot(graph: fx.Graph | fx.GraphModule) -> Snapshot:
    """Takes a picture of a graph to verify against later.

    Costs well under a microsecond a node; the graph may then be changed in place.

    Args:
        graph: The graph as it is before the pass.

    Returns:
        The picture, to pass to :func:`spfast.verifier.verify` as ``before``.

    Raises:
        GraphError: ``graph`` is not a graph.

    Example:
        >>> import torch
        >>> graph = torch.fx.symbolic_trace(torch.nn.ReLU()).graph
        >>> len(snapshot(graph))
        3
    """
    found = graph_of(graph)
    if found.owning_module is None:
        return Snapshot(_entries(found), None)
    inner = called_graphs(found)
    called = {path: Snapshot(_entries(each.graph), {}) for path, each in inner.items()}
    graphs = {path: each.graph for path, each in inner.items()}
    crossed = (
        pair
        for path, graph in {"": found, **graphs}.items()
        for pair in crossings(graph, path, graphs)
    )
    return Snapshot(_entries(found), called, tuple(crossed) if graphs else ())


def _entries(graph: fx.Graph) -> list[Entry]:
    return [
        (node, node.op, node.target, node.args, node.kwargs, node.meta.get("val"))
        for node in graph.nodes
    ]
