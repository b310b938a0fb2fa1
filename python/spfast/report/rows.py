"""A graph as plain rows: what a picture of it needs, and nothing that keeps the graph alive."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from spfast.fxgraph.targets import target_name
from spfast.patterns import Registry

__all__ = ["ALL_GATHER", "ALL_REDUCE", "COLLECTIVES", "REDUCE_SCATTER", "WAIT", "Row", "rows_of"]

ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, WAIT = "all_reduce", "reduce_scatter", "all_gather", "wait"
COLLECTIVES = (ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER)


@dataclass(frozen=True)
class Row:
    """One node.

    Attributes:
        name: Its name.
        op: Its kind, as in ``fx.Node.op``.
        target: What it calls, as people write it.
        inputs: The names of the nodes that it reads, each once.
        shape: Its value's shape and dtype, as people write them; empty where they are not known.
        bytes: Its value's bytes; a symbolic size counts with its hint.
        role: ``all_reduce``, ``reduce_scatter``, ``all_gather``, ``wait``, or empty.
        layer: The module that it comes from, where the trace knows it.
        is_view: Whether it has no memory of its own.
    """

    name: str
    op: str
    target: str
    inputs: tuple[str, ...]
    shape: str
    bytes: int
    role: str
    layer: str
    is_view: bool


def rows_of(graph: fx.Graph, registry: Registry) -> tuple[Row, ...]:
    """Returns one row for each node of a graph, in its order.

    Args:
        graph: The graph.
        registry: Knows what each dialect calls its collectives.

    Example:
        >>> from spfast.patterns import default_registry
        >>> graph = fx.Graph()
        >>> _ = graph.output((graph.placeholder("x"),))
        >>> [row.name for row in rows_of(graph, default_registry())]
        ['x', 'output']
    """
    roles = _roles(registry)
    return tuple(_row(node, roles) for node in graph.nodes)


def _row(node: fx.Node, roles: Mapping[str, str]) -> Row:
    target = target_name(node.target) if node.op == "call_function" else str(node.target)
    value = node.meta.get("val")
    role = roles.get(target) or _role(target) if node.op == "call_function" else ""
    return Row(
        name=node.name,
        op=node.op,
        target=target,
        inputs=tuple(each.name for each in node.all_input_nodes),
        shape=", ".join(_shape(part) for part in _tensors(value)),
        bytes=sum(_bytes(part) for part in _tensors(value)),
        role=role,
        layer=_layer(node),
        is_view=role == WAIT or _is_view(node.target),
    )


def _roles(registry: Registry) -> dict[str, str]:
    found: dict[str, str] = {}
    for family in registry.families():
        sums = (family.all_reduce, family.in_place, family.coalesced, family.coalesced_in_place)
        found.update({name: ALL_REDUCE for name in sums if name})
        found[family.reduce_scatter] = REDUCE_SCATTER
        found[family.all_gather] = ALL_GATHER
        if family.wait:
            found[family.wait] = WAIT
    return found


def _role(target: str) -> str:
    """The role of a collective that no dialect knows, by its name."""
    return next((role for role in COLLECTIVES if role in target), "")


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        yield value


def _shape(value: Any) -> str:
    sizes = ", ".join(str(size) for size in value.shape)
    return f"{str(value.dtype).removeprefix('torch.')} [{sizes}]"


def _bytes(value: Any) -> int:
    count = value.element_size()
    for size in value.shape:
        count *= _number(size)
    return int(count)


def _number(size: Any) -> int:
    """A size as a number; one that only a run tells counts as one."""
    if isinstance(size, int):
        return size
    hint = size.node.hint if size.node.has_hint() else 1
    return int(hint) if hint is not None else 1


def _layer(node: fx.Node) -> str:
    """The innermost module of the trace that is one of a list (``model.layers.3``)."""
    stack = node.meta.get("nn_module_stack")
    if not isinstance(stack, Mapping):
        return ""
    for entry in reversed(list(stack.values())):
        path = str(entry[0] if isinstance(entry, tuple) else entry)
        # Dynamo writes L['self'].model.layers['3'], or with [3]; export writes model.layers.3.
        parts = re.sub(r"\['?(\w+)'?\]", r".\1", path).removeprefix("L.self.").split(".")
        last = max((at for at, part in enumerate(parts) if part.isdecimal()), default=None)
        if last is not None:
            return ".".join(parts[: last + 1])
    return ""


def _is_view(target: Any) -> bool:
    if target is operator.getitem:
        return True
    returns = getattr(getattr(target, "_schema", None), "returns", ())
    return any(each.alias_info is not None for each in returns)
