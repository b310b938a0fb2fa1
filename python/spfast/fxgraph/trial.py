"""Whether FX is as the native edits expect it: cpp/fx/graph_editor.cpp asks once a process.

The same edits are made to two graphs, by FX's methods and natively. Everything that FX keeps of the
two must be equal. If another torch does something otherwise, this shows, and FX's methods make the
edits.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from spfast import _core

__all__ = ["holds"]


def holds() -> bool:
    """Returns whether both ways leave equal graphs.

    Example:
        >>> isinstance(holds(), bool)
        True
    """
    try:
        return bool(_picture(_edited("methods")) == _picture(_edited("native")))
    except Exception:  # whatever a torch that we do not know raises
        return False


def _edited(way: str) -> list[fx.Node]:
    """Edits a graph of its own; returns its nodes, those that were erased last."""
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    both = graph.call_function(operator.add, (x, [x, y]), {})
    gone = graph.call_function(operator.add, (both, 1))
    out = graph.output((both, gone))
    editor = _core.GraphEditor(graph, way)
    made = []
    for before in (out, both, out):
        # Two nodes ask for one name, and one asks for a name of Python's.
        made += [editor.create(operator.sub, "sub", before), editor.create(abs, "abs", before)]
    editor.set_operands(made[0], (x, [both, 2]), {"other": y})
    editor.replace_input(out, both, made[0])
    editor.replace_input(out, gone, made[0])
    editor.erase(gone)
    editor.finish()
    return [*graph.nodes, gone]


def _picture(nodes: list[fx.Node]) -> Any:
    """All that FX keeps, with nodes told by their names."""
    graph = nodes[0].graph
    names = graph._graph_namespace
    table = graph._find_nodes_lookup_table.table
    return (
        [_node(node) for node in nodes],
        {key: [node.name for node in found] for key, found in table.items()},
        [(node.name, name) for node, name in names._obj_to_name.items()],  # type: ignore[attr-defined]
        names._used_names,
        names._base_count,
        graph._len,
        [node < after for node, after in zip(nodes[:-2], nodes[1:-1], strict=True)],
    )


def _node(node: fx.Node) -> Any:
    return (
        *(node.name, node.op, node.target, str(node.args), str(node.kwargs), node.type),
        *([user.name for user in node.users], [read.name for read in node._input_nodes]),
        *(node._prev.name, node._next.name, node._erased, node.meta, sorted(vars(node))),
        *(type(node.args), type(node.kwargs)),
    )
