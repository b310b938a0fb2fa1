"""What a user may pass for a graph."""

from __future__ import annotations

from torch import fx

from spfast.errors import GraphError

__all__ = ["graph_of"]


def graph_of(graph: fx.Graph | fx.GraphModule) -> fx.Graph:
    """Returns the graph itself.

    Args:
        graph: A graph, or a module that has one.

    Raises:
        GraphError: It is neither.

    Example:
        >>> import torch
        >>> len(graph_of(torch.fx.symbolic_trace(torch.nn.ReLU())).nodes)
        3
    """
    found = graph.graph if isinstance(graph, fx.GraphModule) else graph
    if not isinstance(found, fx.Graph):
        raise GraphError(
            f"{type(graph).__name__} is not a graph: pass an fx.Graph or an fx.GraphModule"
        )
    return found
