"""Removes reshapes, slices and slice_scatters that change nothing, and shortens reshape chains.

A node goes only where its value is provably the value it reads: same shape, same stride, same
dtype. Symbolic sizes are compared as expressions; nothing here ever adds a guard.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx.experimental.symbolic_shapes import statically_known_true

from spfast.errors import GraphError
from spfast.fxgraph.operators import SIZE_ARITHMETIC, SIZES, VIEWS
from spfast.fxgraph.writes import Writes, root_of

__all__ = ["NoOpEliminationPass", "NoOpResult"]

logger = logging.getLogger("spfast")

_aten = torch.ops.aten
_SLICE = _aten.slice.Tensor
_SLICE_SCATTER = _aten.slice_scatter.default
_TARGETS = (*VIEWS, _SLICE, _SLICE_SCATTER)
# Operators whose nodes are dead once the reshape that read them is gone.
_DEAD_WITHOUT_READERS = VIEWS | SIZES | SIZE_ARITHMETIC


@dataclass(frozen=True)
class NoOpResult:
    """What one run did.

    Attributes:
        removed: Nodes whose users now read the node's own input.
        shortened: Reshapes of a reshape that now read what the first one read.
    """

    removed: int
    shortened: int

    def __int__(self) -> int:
        return self.removed + self.shortened


class NoOpEliminationPass(CustomGraphPass):
    """A torch._inductor custom pass that removes what changes nothing.

    Attributes:
        pass_name: The name under which the pass shows up in logs and dumps.
        matched_count: Nodes removed or shortened by the latest call.
        result: The same, told apart; None before the first call.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> y = graph.call_function(torch.ops.aten.reshape.default, (x, [4, 8]))
        >>> z = graph.call_function(torch.ops.aten.neg.default, (y,))
        >>> _ = graph.output((z,))
        >>> x.meta["val"] = y.meta["val"] = z.meta["val"] = torch.empty(4, 8, device="meta")
        >>> noop = NoOpEliminationPass()
        >>> noop(graph)
        >>> noop.matched_count, z.args
        (1, (x,))
    """

    pass_name = "noop_elimination"

    def __init__(self) -> None:
        self.matched_count = 0
        self.result: NoOpResult | None = None

    def __repr__(self) -> str:
        done = f"latest: {self.result}" if self.result is not None else "not called yet"
        return f"<{type(self).__name__}; {done}>"

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrites ``graph`` in place.

        Args:
            graph: A graph whose nodes carry fake tensors in ``meta["val"]``; a node without one
                is left alone.

        Raises:
            GraphError: ``graph`` is not an fx.Graph.
        """
        if not isinstance(graph, fx.Graph):
            raise GraphError(f"{type(graph).__name__} is not an fx.Graph: pass gm.graph")
        self.result = _Run(graph).run()
        self.matched_count = int(self.result)
        logger.debug(
            "%s: removed %d, shortened %d",
            self.pass_name,
            self.result.removed,
            self.result.shortened,
        )

    def uuid(self) -> str:
        """Returns what Inductor puts into its cache key for this pass."""
        return "spfast.noop_elimination.1"


class _Run:
    """One walk over one graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self._writes = Writes(graph)

    def run(self) -> NoOpResult:
        removed = shortened = 0
        candidates = [
            node
            for target in _TARGETS
            for node in self.graph.find_nodes(op="call_function", target=target)
        ]
        # find_nodes gives one target's nodes at a time; a chain needs all of them in graph order.
        for node in sorted(candidates):
            if node.target in VIEWS and self._shorten(node):
                shortened += 1
            source = self._source_of_noop(node)
            if source is not None and not self._would_output_an_input(node, source):
                node.replace_all_uses_with(source)
                self._erase(node)
                removed += 1
        return NoOpResult(removed, shortened)

    def _shorten(self, node: fx.Node) -> bool:
        """Lets reshape(reshape(x)) read x, where the first reshape surely copies nothing."""
        inner = node.args[0]
        if not isinstance(inner, fx.Node) or inner.target not in VIEWS:
            return False
        source = inner.args[0]
        if not isinstance(source, fx.Node):
            return False
        value, shape = _tensor(source), _tensor(node)
        # From a contiguous value every reshape is a view: the result aliases what it aliased.
        if value is None or shape is None or not _contiguous(value):
            return False
        node.update_arg(0, source)
        if not inner.users:
            self._erase(inner)
        return True

    def _source_of_noop(self, node: fx.Node) -> fx.Node | None:
        """The node whose value ``node`` provably is, or None."""
        scatters = node.target is _SLICE_SCATTER
        operand = _argument(node, 1, "src") if scatters else _argument(node, 0, "self")
        if not isinstance(operand, fx.Node):
            return None
        before, after = _tensor(operand), _tensor(node)
        if before is None or after is None or not _same_layout(before, after):
            return None
        if scatters and self._aliasing_matters(operand, node):
            return None
        return operand

    def _aliasing_matters(self, source: fx.Node, scatter: fx.Node) -> bool:
        """Whether an in-place write could be seen if the copy of a slice_scatter were removed."""
        return self._writes.touch(source) or self._writes.touch(scatter)

    def _would_output_an_input(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether an output would become an input: the caller knows which outputs are inputs."""
        if not any(user.op == "output" for user in node.users):
            return False
        root = root_of(source)
        if root.op in ("placeholder", "get_attr"):
            return True
        # The copy that a slice_scatter makes keeps two outputs apart.
        return node.target is _SLICE_SCATTER and any(
            root_of(output) is root
            for output in self.graph.output_node().all_input_nodes
            if output is not node
        )

    def _erase(self, node: fx.Node) -> None:
        """Erases ``node`` and the size arithmetic that only it read."""
        operands = list(node.all_input_nodes)
        self.graph.erase_node(node)
        for operand in operands:
            dead = not operand.users and operand.op == "call_function"
            if dead and (operand.target in _DEAD_WITHOUT_READERS):
                self._erase(operand)


def _tensor(node: fx.Node) -> torch.Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def _argument(node: fx.Node, index: int, name: str) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def _same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.device != b.device or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        return False
    return _equal(a.shape, b.shape) and _equal(a.stride(), b.stride())


def _contiguous(value: torch.Tensor) -> bool:
    """Whether the rows lie one after the other, decided on expressions: is_contiguous guards."""
    if value.layout != torch.strided:
        return False
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if _same(size, 1):
            continue
        if not _same(stride, expected):
            return False
        expected = expected * size
    return True


def _equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(a: Any, b: Any) -> bool:
    """Whether two sizes are provably equal, without a guard."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt) and a.node.expr == b.node.expr:
        return True
    return bool(statically_known_true(a == b))
