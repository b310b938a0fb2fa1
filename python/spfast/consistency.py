"""Whether all ranks do the same together: asked before they compile, so that none waits for others.

The ranks of a tensor-parallel group meet in every collective of their graphs. Where the collectives
differ, the ranks hang. Where the ranks compute different things on their rows, the gathered value
is nonsense. What a rank does for itself may differ. A fingerprint says more: that the graphs are
the same. It is taken *before* the pass, for afterwards each rank keeps its own rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sympy
import torch
import torch.distributed as dist
from torch import fx

from spfast.api import preview
from spfast.config import SequenceParallelConfig, as_config
from spfast.errors import ConfigError, RankMismatchError
from spfast.fxgraph.graphs import called_graphs, graph_of
from spfast.fxgraph.targets import target_name
from spfast.patterns import Registry

__all__ = ["check_ranks_agree", "fingerprint"]

_DIGEST_BYTES = 8


def fingerprint(graph: fx.Graph | fx.GraphModule) -> str:
    """Returns a digest of what a graph computes: equal on every rank, in every process and run.

    It covers each node's operator, operands, literals and the shapes, strides and dtypes of
    ``meta["val"]``, in the graph and in the graphs that it calls, however deep. It does not cover
    node names, device indices, or the other metadata. Of symbols it covers where each stands, but
    not the names. Take it before the pass. After the pass, the literals that say which rows a rank
    keeps differ, as they must.

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
    texts = list(_described(graph_of(graph)))
    for number, module in enumerate(called_graphs(graph_of(graph)).values(), 1):
        texts += [f"in called graph {number}: {text}" for text in _described(module.graph)]
    return _combined([_digest(text) for text in texts])


def check_ranks_agree(
    graph: fx.Graph | fx.GraphModule,
    group: dist.ProcessGroup | None = None,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> None:
    """Makes sure that all ranks of a group will do the same together, before any compiles.

    It compares the collectives of the graph in order, before and after the pass, each with its
    group, literals and shapes. It also compares what is computed on one rank's rows between them,
    and everything that is read there, back to inputs and collectives. It does so in the graph and
    in the graphs that it calls. What a rank computes for itself may differ: a bias that rank 0 adds
    to its partial sum, a name, an input that others do not have.

    Every rank of the group must call it. The ranks exchange something small once when they agree.
    When they do not, they do so twice more to find the first difference.

    Args:
        graph: This rank's graph, before the pass; it is not changed.
        group: The ranks that must agree; None takes all.
        config: How the pass will work. Where a rank cannot look its groups up, the collectives
            before the pass alone are compared.
        registry: The rules of the pass; None takes those of ``spfast.patterns``.

    Raises:
        RankMismatchError: The ranks would not do the same; raised on every rank, with the first
            difference, as both sides have it.
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
    config = as_config(config)
    steps = _steps(graph_of(graph), "", config, registry)
    for number, (path, module) in enumerate(_meeting_places(graph_of(graph)).items(), 1):
        inside = f" in called graph {number}"
        steps += _steps(module.graph, inside, config.inside(f"{path}."), registry)
    digests = [_digest(text) for text in steps]
    summaries = _exchange((len(digests), _combined(digests)), group)
    if all(summary == summaries[0] for summary in summaries):
        return
    everybody = [_split(joined) for joined in _exchange(b"".join(digests), group)]
    place, other = _first_difference(everybody)
    texts = _exchange(steps[place] if place < len(steps) else "nothing further", group)
    raise RankMismatchError(
        f"rank 0 and rank {other} would not do the same together. Rank 0 has {texts[0]}; "
        f"rank {other} has {texts[other]}: all ranks must call the same collectives in one order, "
        f"and compute the same on their rows in between, or they wait for each other"
    )


def _steps(
    graph: fx.Graph, inside: str, config: SequenceParallelConfig, registry: Registry | None
) -> list[str]:
    """What one graph does together with other ranks, before the pass and after it."""
    steps = [f"before the pass{inside}: {text}" for text in done_together(graph)]
    try:
        after = preview(graph, config, registry=registry)
        steps += [f"after the pass{inside}: {text}" for text in done_together(after, graph)]
    except Exception as error:  # to raise now would leave the others waiting
        steps.append(f"the pass raises {type(error).__name__}{inside}")
    return steps


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

    def of_cut(self, node: fx.Node) -> str:
        """Describes rows of a value, but not which rows: each rank takes its own."""
        return "|".join(("rows", self.of(node.args[0]), self.of_value(node.meta.get("val"))))

    def of(self, argument: Any) -> str:
        if isinstance(argument, fx.Node):
            place = self.places.get(argument)
            return self.of_value(argument.meta.get("val")) if place is None else f"%{place}"
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
        """Writes an expression whose symbols are named by the order in which they first occur."""
        # Several symbols may be new in one expression. Their places in it give them their order.
        for part in sympy.preorder_traversal(expression):
            if isinstance(part, sympy.Symbol) and part not in self._symbols:
                name = f"size{len(self._symbols)}"
                self._symbols[part] = sympy.Symbol(name, integer=True, positive=True)
        return str(expression.xreplace(self._symbols))


# --- what the ranks do together ---

_REDUCTIONS = ("allreduce", "reducescatter")
_COLLECTIVES = ("allreduce", "reducescatter", "allgather", "alltoall", "broadcast", "permute")


def done_together(graph: fx.Graph, before: fx.Graph | None = None) -> list[str]:
    """Describes what must be the same on every rank of a graph, in order.

    These are the collectives, and the nodes between a reduce_scatter and the all_gather that ends
    it. Each is described by operator, literals and shapes, and by the places of those operands that
    are described, too. Everything that is read there is described, back to inputs and collectives:
    a mask, a gate, a part of a row. Which rows of a value a rank takes is left out. A call of a
    graph with collectives is described, for it says when these come.

    Args:
        graph: The graph.
        before: The graph before the pass, where ``graph`` is the one after it. Nodes that it lacks
            may cut a rank's rows out of a value, and their literals are not compared.

    Example:
        >>> done_together(fx.Graph())
        []
    """
    text = _Text()
    found: list[str] = []
    has_rows: set[fx.Node] = set()
    numbers = {path: number for number, path in enumerate(_meeting_places(graph), 1)}
    names = {node.name for node in before.nodes} if before is not None else None
    for node in graph.nodes:
        kind = _collective(node)
        for called in (node, *node.all_input_nodes):
            named = "call_module" if called is node else "get_attr"
            if called.op == named and str(called.target) in numbers:
                found.append(f"the collectives of called graph {numbers[str(called.target)]}")
        reads_rows = node.op != "output" and not has_rows.isdisjoint(node.all_input_nodes)
        behind: list[fx.Node] = []
        if reads_rows:
            behind = _behind(node, _is_computed, text.places)
        elif names is not None and kind in _REDUCTIONS:
            # A merged sum is computed before the reduction now. Its literals are compared, too.
            behind = _behind(node, lambda made: made.name not in names, text.places)
        for each in behind:
            described = text.of_cut(each) if _cuts_rows(each, node) else text.of_node(each)
            text.places[each] = len(found)
            if not reads_rows or names is None or each.name in names:
                found.append(described)
        if kind or reads_rows:
            described = text.of_node(node)
            text.places[node] = len(found)
            found.append(described)
        if kind == "reducescatter" or (reads_rows and not kind):
            has_rows.add(node)
    return found


def _is_computed(node: fx.Node) -> bool:
    """Whether a rank computes a node itself: it is no input, and not what all ranks do together."""
    return node.op == "call_function" and not _collective(node)


def _cuts_rows(node: fx.Node, reader: fx.Node) -> bool:
    """Whether a node takes as many rows of a value as its reader has: each rank takes its own."""
    if node.target is not torch.ops.aten.slice.Tensor or len(node.args) < 4:
        return False
    rows, read = node.meta.get("val"), reader.meta.get("val")
    if not isinstance(rows, torch.Tensor) or not isinstance(read, torch.Tensor):
        return False
    if not read.dim() or str(rows.shape[0]) != str(read.shape[0]):
        return False
    _, dim, start, end = node.args[:4]
    if dim != 0:
        return False
    if not isinstance(start, int) or not isinstance(end, int):
        return True
    return 0 <= start < end and start % (end - start) == 0


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt)


def _behind(
    node: fx.Node, is_wanted: Callable[[fx.Node], bool], places: Mapping[fx.Node, int]
) -> list[fx.Node]:
    """The nodes that a node is computed from, if wanted and not described yet; operands first."""
    found: set[fx.Node] = set()
    pending = list(node.all_input_nodes)
    while pending:
        each = pending.pop()
        if each not in found and each not in places and is_wanted(each):
            found.add(each)
            # It does not matter which value a size is of, nor which rows are a rank's own.
            operands = each.all_input_nodes[:1] if _cuts_rows(each, node) else each.all_input_nodes
            pending += [one for one in operands if not _is_size(each) or _is_size(one)]
    return sorted(found)


def _meeting_places(graph: fx.Graph) -> dict[str, fx.GraphModule]:
    """The graphs that a graph calls, by path, that have collectives or call others that have."""
    called = called_graphs(graph)
    have = {
        path
        for path, module in called.items()
        if any(_collective(node) for node in module.graph.nodes)
    }
    return {
        path: module
        for path, module in called.items()
        if any(one == path or one.startswith(f"{path}.") for one in have)
    }


def _collective(node: fx.Node) -> str:
    """Which collective a node calls, wrapped or not; "" for none."""
    target: Any = node.target
    if isinstance(target, torch._ops.HigherOrderOperator) and node.args:
        target = node.args[0]
    if not isinstance(target, torch._ops.OpOverload) or target.namespace in ("aten", "prims"):
        return ""
    name = target._schema.name.split("::", 1)[1].replace("_", "")
    return next((part for part in _COLLECTIVES if part in name), "")
