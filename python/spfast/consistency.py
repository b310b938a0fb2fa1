"""Whether all ranks compile the same graph: asked before they do, so that none waits for others.

The ranks of a tensor-parallel group meet in every collective of their graphs. Where the graphs
differ they hang, or compute nonsense. A fingerprint of the graph *before* the pass is the same on
every rank, in every process and run; afterwards graphs differ rightly, for each rank keeps its own
rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import sympy
import torch
import torch.distributed as dist
from torch import fx

from spfast.errors import ConfigError, RankMismatchError
from spfast.graphs import graph_of
from spfast.targets import target_name

__all__ = ["check_ranks_agree", "fingerprint"]

_DIGEST_BYTES = 8


def fingerprint(graph: fx.Graph | fx.GraphModule) -> str:
    """Returns a digest of what a graph computes: equal on every rank, in every process and run.

    It covers each node's operator, operands, literals and the shapes, strides and dtypes of
    ``meta["val"]``. It does not cover node names, symbols' names (only where which symbol stands),
    device indices, or the other metadata. Take it before the pass: after it, the literals that say
    which rows a rank keeps differ, as they must.

    Args:
        graph: The graph.

    Returns:
        32 hexadecimal digits.

    Raises:
        GraphError: ``graph`` is not a graph.

    Example:
        >>> def graph_named(name):
        ...     graph = fx.Graph()
        ...     _ = graph.output(graph.call_function(abs, (graph.placeholder(name),)))
        ...     return graph
        >>> fingerprint(graph_named("x")) == fingerprint(graph_named("tokens"))
        True
    """
    return _combined([_digest(text) for text in _described(graph_of(graph))])


def check_ranks_agree(
    graph: fx.Graph | fx.GraphModule, group: dist.ProcessGroup | None = None
) -> None:
    """Makes sure that every rank of a group has the same graph, before any rank compiles it.

    Every rank of the group must call it. One small exchange is made when the graphs agree, and two
    more to find the first node that differs when they do not.

    Args:
        graph: This rank's graph, before the pass.
        group: The ranks that must agree; None takes all.

    Raises:
        RankMismatchError: The graphs differ; raised on every rank, with the first node that
            differs, as both sides have it.
        ConfigError: torch.distributed is not initialised.
        GraphError: ``graph`` is not a graph.

    Example:
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> check_ranks_agree(fx.Graph())
        >>> dist.destroy_process_group()
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ConfigError(
            "torch.distributed is not initialised, so there is no rank to agree with: call "
            "init_process_group first, or compare spfast.fingerprint(graph) yourself"
        )
    nodes = list(graph_of(graph).nodes)
    digests = [_digest(text) for text in _described(graph_of(graph))]
    summaries = _exchange((len(digests), _combined(digests)), group)
    if all(summary == summaries[0] for summary in summaries):
        return
    everybody = [_split(joined) for joined in _exchange(b"".join(digests), group)]
    place, other = _first_difference(everybody)
    shown = _show(nodes[place]) if place < len(nodes) else "no further node"
    texts = _exchange(shown, group)
    raise RankMismatchError(
        f"the graphs of rank 0 and rank {other} differ from node number {place} on: rank 0 has "
        f"{texts[0]}, rank {other} has {texts[other]}: all ranks must compile the same graph, "
        f"or they wait for each other in its collectives"
    )


def _exchange(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered


def _split(joined: bytes) -> list[bytes]:
    return [joined[at : at + _DIGEST_BYTES] for at in range(0, len(joined), _DIGEST_BYTES)]


def _first_difference(everybody: list[list[bytes]]) -> tuple[int, int]:
    """The first node at which some rank differs from rank 0, and that rank."""
    first = everybody[0]
    found: list[tuple[int, int]] = []
    for rank, digests in enumerate(everybody):
        if digests != first:
            pairs = enumerate(zip(first, digests, strict=False))
            shorter = min(len(first), len(digests))
            place = next((at for at, (left, right) in pairs if left != right), shorter)
            found.append((place, rank))
    return min(found)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def _combined(digests: list[bytes]) -> str:
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _described(graph: fx.Graph) -> Iterator[str]:
    """One text a node, in which operands are positions and symbols are numbered."""
    text = _Text()
    for place, node in enumerate(graph.nodes):
        text.places[node] = place
        yield text.of_node(node)


class _Text:
    """Writes nodes of one graph down without anything that differs between processes."""

    def __init__(self) -> None:
        self.places: dict[fx.Node, int] = {}
        self._symbols: dict[sympy.Symbol, sympy.Symbol] = {}

    def of_node(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            target = ""  # its place says which input it is
        elif isinstance(node.target, str):
            target = node.target
        else:
            target = target_name(node.target)
        parts = (self.of(node.args), self.of(node.kwargs), self.of_value(node.meta.get("val")))
        return "|".join((node.op, target, *parts))

    def of(self, argument: Any) -> str:
        if isinstance(argument, fx.Node):
            return f"%{self.places[argument]}"
        if isinstance(argument, (list, tuple)):
            return f"({','.join([self.of(item) for item in argument])})"
        if isinstance(argument, dict):
            return f"{{{','.join([f'{key}:{self.of(argument[key])}' for key in argument])}}}"
        if isinstance(argument, bool) or argument is None or isinstance(argument, (int, str)):
            return repr(argument)
        if isinstance(argument, float):
            return argument.hex()
        if isinstance(argument, slice):
            return f"slice{self.of((argument.start, argument.stop, argument.step))}"
        if isinstance(argument, torch.device):
            return f"device {argument.type}"  # each rank has a device of its own
        if isinstance(argument, (torch.dtype, torch.layout, torch.memory_format, complex)):
            return str(argument)
        if isinstance(argument, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._expression(argument.node.expr)
        if isinstance(argument, dist.ProcessGroup):
            return f"group {argument.group_name}"
        if callable(argument):
            return target_name(argument)
        return type(argument).__qualname__  # an object says nothing that holds elsewhere

    def of_value(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            sizes = [self.of(size) for size in (*value.shape, *value.stride())]
            return f"{value.dtype} {value.device.type} [{','.join(sizes)}]"
        if isinstance(value, (list, tuple)):
            return f"({','.join([self.of_value(item) for item in value])})"
        return self.of(value)

    def _expression(self, expression: Any) -> str:
        """An expression whose symbols are named by the order in which they turn up."""
        # Symbols of one expression that are new together are told apart by where they stand in it.
        for part in sympy.preorder_traversal(expression):
            if isinstance(part, sympy.Symbol) and part not in self._symbols:
                name = f"size{len(self._symbols)}"
                self._symbols[part] = sympy.Symbol(name, integer=True, positive=True)
        return str(expression.xreplace(self._symbols))


def _show(node: fx.Node) -> str:
    value = node.meta.get("val")
    shape = f" of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else ""
    what = node.target if isinstance(node.target, str) else target_name(node.target)
    operands = ", ".join(operand.name for operand in node.all_input_nodes)
    literals = [a for a in node.args if not isinstance(a, (fx.Node, list, tuple, dict))]
    given = f"({operands})" + (f" with {literals}" if literals else "")
    return f"'{node.name}' = {what}{given}{shape}"
