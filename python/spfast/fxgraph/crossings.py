"""Where a value goes from one graph into another: into what is called, and back."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import fx

__all__ = ["Crossing", "crossings"]

# A graph's path, and a value of it.
Place = tuple[str, fx.Node]


class Crossing(NamedTuple):
    """A value that is in two graphs.

    Attributes:
        source: Where it comes from: the path of a graph, and a node of it.
        sink: Where it goes: the path of a graph, and a node of it.
        call: The node of the calling graph that calls the other one.
    """

    source: Place
    sink: Place
    call: fx.Node

    @property
    def is_operand(self) -> bool:
        """Whether it is handed to the graph that is called, and not returned by it."""
        return self.sink[1].op == "placeholder" and self.source[1].graph is self.call.graph


def crossings(graph: fx.Graph, path: str, graphs: Mapping[str, fx.Graph]) -> Iterator[Crossing]:
    """Yields where values come from and where they go, on the two sides of each call.

    Args:
        graph: The graph that calls.
        path: The path under which it is called itself; empty for the outermost.
        graphs: The graphs that are called, by path. A graph with several paths is there under one
            of them.

    Example:
        >>> import torch
        >>> inner = torch.fx.symbolic_trace(torch.nn.ReLU())
        >>> outer = fx.Graph()
        >>> called = outer.call_module("inner", (outer.placeholder("value"),))
        >>> module = fx.GraphModule({"inner": inner}, outer)
        >>> for source, sink, _ in crossings(module.graph, "", {"inner": inner.graph}):
        ...     print(source, sink)
        ('', value) ('inner', input_1)
        ('inner', relu) ('', inner)
    """
    module = graph.owning_module
    if module is None:
        return
    paths = {id(each): where for where, each in graphs.items()}
    passed: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op not in ("get_attr", "call_module"):
            continue
        where = paths.get(id(getattr(_attribute(module, str(node.target)), "graph", None)))
        if where is None:
            continue
        if node.op == "get_attr":
            passed[node] = where
        else:
            yield from _call(node, path, where, graphs[where], {})
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            if operand in passed and node.op == "call_function":
                where = passed[operand]
                yield from _call(node, path, where, graphs[where], passed)


def _attribute(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name, None)
    return module


def _call(
    node: fx.Node, path: str, where: str, called: fx.Graph, passed: Mapping[fx.Node, str]
) -> Iterator[Crossing]:
    inputs = [each for each in called.nodes if each.op == "placeholder"]
    given = _operands(node, passed)
    if len(given) == len(inputs):
        pairs = list(zip(given, inputs, strict=True))
    else:  # which operand is which input is not known
        operands = [each for each in node.all_input_nodes if each not in passed]
        pairs = [(operand, each) for operand in operands for each in inputs]
    for operand, each in pairs:
        if isinstance(operand, fx.Node):
            yield Crossing((path, operand), (where, each), node)
    returned = next((each.args[0] for each in called.nodes if each.op == "output"), None)
    if isinstance(returned, fx.Node):
        yield Crossing((where, returned), (path, node), node)
        return
    items: Sequence[Any] = returned if isinstance(returned, (list, tuple)) else ()
    for user in node.users:
        if user.target is operator.getitem and type(user.args[1]) is int:
            place = user.args[1]
            if place < len(items) and isinstance(items[place], fx.Node):
                yield Crossing((where, items[place]), (path, user), node)
    # A loop hands what one iteration carries to the next.
    for each, item in zip(inputs[: _carried(node, len(items))], items, strict=False):
        if isinstance(item, fx.Node):
            yield Crossing((where, item), (where, each), node)


def _operands(node: fx.Node, passed: Mapping[fx.Node, str]) -> list[Any]:
    """What a call hands on, in order. An operator hands on what follows its graphs."""
    if node.op == "call_module":
        return [*node.args, *node.kwargs.values()]
    graphs = [place for place, each in enumerate(node.args) if _is_graph(each, passed)]
    rest = node.args[graphs[-1] + 1 :] if graphs else ()
    return [each for each in _flat(rest) if not isinstance(each, str)]


def _is_graph(operand: Any, passed: Mapping[fx.Node, str]) -> bool:
    return isinstance(operand, fx.Node) and operand in passed


def _carried(node: fx.Node, returned: int) -> int:
    """How many of the values that a loop's body returns are the next iteration's first inputs."""
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    if name == "scan" and len(node.args) > 1:
        return len(_flat((node.args[1],)))
    return returned if name == "while_loop" else 0


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    stack: list[Any] = [*reversed(values)]
    while stack:
        each = stack.pop()
        if isinstance(each, (list, tuple)):
            stack.extend(reversed(each))
        elif isinstance(each, dict):
            stack.extend(reversed(each.values()))
        else:
            found.append(each)
    return found
