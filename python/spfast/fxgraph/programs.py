"""Exported programs: how they are recognised, and the names by which they know their graph.

A program's signature names the nodes that its graph returns. So after a rewrite, the nodes that are
returned then have these names. Nobody checks the guards of a program's ShapeEnv once it is saved,
so a rewrite needs no guard.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import fx
from torch.fx.node import map_arg

from spfast.fxgraph.journal import Journal

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from typing_extensions import TypeIs

__all__ = ["OutputNames", "is_exported", "is_program"]

# What torch.export, and its reader, leave in the meta of a program's module.
_MARKS = ("inline_constraints", "treespec_namedtuple_fields")


def is_program(graph: object) -> TypeIs[ExportedProgram]:
    """Says whether an object is an exported program; loads nothing for that.

    Example:
        >>> is_program(fx.Graph())
        False
    """
    module = sys.modules.get("torch.export.exported_program")
    return module is not None and isinstance(graph, module.ExportedProgram)


def is_exported(graph: object) -> bool:
    """Says whether an object is an exported program, or the module or the graph of one.

    Example:
        >>> import torch
        >>> program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
        >>> is_exported(program), is_exported(program.graph), is_exported(fx.Graph())
        (True, True, False)
    """
    if is_program(graph):
        return True
    owner: Any = graph.owning_module if isinstance(graph, fx.Graph) else graph
    meta = getattr(owner, "meta", None)
    return isinstance(meta, dict) and any(mark in meta for mark in _MARKS)


class OutputNames:
    """The names of what a graph returns.

    Args:
        graph: The graph before it is rewritten.

    Example:
        >>> graph = fx.Graph()
        >>> y = graph.call_function(abs, (graph.placeholder("x"),))
        >>> output = graph.output((y,))
        >>> names = OutputNames(graph)
        >>> with graph.inserting_before(output):
        ...     z = graph.call_function(abs, (y,))
        >>> output.args = ((z,),)
        >>> _ = names.keep()
        >>> [node.name for node in graph.nodes]
        ['x', 'abs_1_local', 'abs_1', 'output']
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._known = set(graph.nodes)
        self._returned = _returned(graph)

    def keep(self) -> Journal:
        """Gives each node that is returned now the name of the node that was returned there.

        The old node is renamed if it is still there. Returns the journal that takes this back.
        """
        journal = Journal(self._graph)
        spaces = self._graph._graph_namespace
        renamed: set[fx.Node] = set()
        for old, new in zip(self._returned, _returned(self._graph), strict=True):
            if old is new or new in self._known or new in renamed:
                continue
            renamed.add(new)
            name = old.name
            if not old._erased:
                journal.rename(old, spaces.create_name(f"{name}_local", None))
            journal.rename(new, name)
        return journal


def _returned(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that are returned, once for each place."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    for output in graph.find_nodes(op="output"):
        map_arg(output.args, note)
    return found
