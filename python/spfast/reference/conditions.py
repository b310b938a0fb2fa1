"""Values each of whose elements says that something holds."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

__all__ = ["conditions"]

Of = Callable[[fx.Node], bool]


def conditions(graph: fx.Graph, is_shared: Of, compares: Of, treats_rows_alone: Of) -> set[fx.Node]:
    """Comparisons, and what is made of them alone row by row, without what all ranks share."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or is_shared(node):
            continue
        unproved = [each for each in node.all_input_nodes if not is_shared(each)]
        made = bool(unproved) and all(each in found for each in unproved)
        if compares(node) or (made and treats_rows_alone(node)):
            found.add(node)
    return found
