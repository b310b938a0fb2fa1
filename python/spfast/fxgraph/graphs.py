"""What a user may pass for a graph, and what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import fx

from spfast.errors import GraphError
from spfast.fxgraph.programs import is_program

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["called_graphs", "graph_of", "kinds_of", "only_reader", "targets_of"]


def graph_of(graph: fx.Graph | fx.GraphModule | ExportedProgram) -> fx.Graph:
    """Returns the graph itself.

    Args:
        graph: A graph, or a module or an exported program that has one.

    Raises:
        GraphError: It is none of these.

    Example:
        >>> import torch
        >>> len(graph_of(torch.fx.symbolic_trace(torch.nn.ReLU())).nodes)
        3
    """
    has_one = isinstance(graph, fx.GraphModule) or is_program(graph)
    found = graph.graph if has_one else graph  # type: ignore[union-attr]
    if not isinstance(found, fx.Graph):
        raise GraphError(
            f"{type(graph).__name__} is not a graph: "
            f"pass an fx.Graph, a GraphModule or an ExportedProgram"
        )
    return found


def called_graphs(graph: fx.Graph) -> dict[str, fx.GraphModule]:
    """Returns the GraphModules that a graph calls or passes on, by path, however deep.

    These are the pieces of a split graph, and the branches and bodies that higher-order operators
    take. Each is there once, whatever calls it. What a graph without a module calls is not known.

    Example:
        >>> import torch
        >>> inner = torch.fx.symbolic_trace(torch.nn.ReLU())
        >>> outer = fx.Graph()
        >>> node = outer.call_module("inner", (outer.placeholder("x"),))
        >>> module = fx.GraphModule({"inner": inner}, outer)
        >>> list(called_graphs(module.graph))
        ['inner']
    """
    found: dict[str, fx.GraphModule] = {}
    known = {id(graph)}
    pending = [("", graph)]
    for path, each in pending:  # grows
        for name, module in _children(each):
            if id(module.graph) not in known:
                known.add(id(module.graph))
                inner = f"{path}.{name}" if path else name
                found[inner] = module
                pending.append((inner, module.graph))
    return found


def _children(graph: fx.Graph) -> Iterator[tuple[str, fx.GraphModule]]:
    modules = getattr(graph.owning_module, "_modules", None)
    if not modules:
        return
    for op in ("call_module", "get_attr"):
        for node in graph.find_nodes(op=op, sort=False):
            first, _, rest = str(node.target).partition(".")
            module = modules.get(first)
            if module is None:
                continue
            for name in rest.split(".") if rest else ():
                module = getattr(module, name, None)
            if isinstance(module, fx.GraphModule):
                yield str(node.target), module


def kinds_of(graph: fx.Graph) -> list[tuple[str, Any]]:
    """Returns what kinds of nodes a graph has, each once; this costs one look-up a kind.

    Returns:
        For each kind (op, target); of other nodes than function calls the target is None.

    Example:
        >>> graph = fx.Graph()
        >>> _ = graph.call_function(abs, (graph.placeholder("x"),))
        >>> kinds_of(graph)
        [('placeholder', None), ('call_function', <built-in function abs>)]
    """
    table = getattr(getattr(graph, "_find_nodes_lookup_table", None), "table", None)
    if table is not None:
        return [kind for kind, nodes in table.items() if nodes]
    return list(
        dict.fromkeys(
            (node.op, node.target if node.op == "call_function" else None) for node in graph.nodes
        )
    )


def targets_of(graph: fx.Graph) -> list[Any]:
    """Returns what functions a graph calls, each once.

    Example:
        >>> targets_of(fx.Graph())
        []
    """
    return [target for op, target in kinds_of(graph) if op == "call_function"]


def only_reader(node: fx.Node) -> fx.Node | None:
    """The node that reads another one; None where there are several, or none.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> reader = graph.call_function(abs, (x,))
        >>> only_reader(x), only_reader(reader)
        (abs_1, None)
    """
    return next(iter(node.users)) if len(node.users) == 1 else None
