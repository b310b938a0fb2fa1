"""A small builder of ``torch.fx`` graphs whose nodes carry FakeTensor metadata.

Real captures take tens of seconds at 80 layers; a benchmark needs a fresh graph for every timed
call. So the graphs are built node by node, with the meta that a capture would have left: one
FakeTensor a node, each with its own storage, and all else that tracing notes (``tracing_meta``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from .tracing_meta import TracingMeta

Size = int | torch.SymInt
CPU = torch.device("cpu")


class GraphBuilder:
    """Adds nodes with metadata to one new ``fx.Graph``.

    Args:
        device: the device that the fake values claim.

    Attributes:
        graph: the graph under construction.
        mode: the FakeTensorMode that all values belong to.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self.graph = fx.Graph()
        self.mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        self.device = device
        self.meta = TracingMeta()

    def symbol(self, hint: int) -> torch.SymInt:
        """A fresh backed symbolic size with ``hint`` as its example value."""
        context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
        value = self.mode.from_tensor(torch.empty(hint, device="meta"), symbolic_context=context)
        size = value.shape[0]
        assert isinstance(size, torch.SymInt)
        return size

    def fake(
        self,
        shape: Sequence[Size],
        dtype: torch.dtype,
        stride: Sequence[Size] | None = None,
    ) -> FakeTensor:
        """A new fake tensor with its own storage."""
        if stride is None:
            meta = torch.empty(tuple(shape), dtype=dtype, device="meta")
        else:
            meta = torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype, device="meta")
        return FakeTensor(self.mode, meta, self.device)

    def placeholder(
        self,
        shape: Sequence[Size],
        dtype: torch.dtype,
        stride: Sequence[Size] | None = None,
    ) -> fx.Node:
        """A graph input, named as AOTAutograd names them."""
        node = self.graph.placeholder(f"arg{len(self.graph.nodes)}_1")
        self.meta.placeholder(node, self.fake(shape, dtype, stride))
        return node

    def symbol_input(self, hint: int) -> tuple[fx.Node, torch.SymInt]:
        """A graph input that is a symbolic size, and the size itself."""
        size = self.symbol(hint)
        node = self.graph.placeholder(f"arg{len(self.graph.nodes)}_1")
        self.meta.placeholder(node, size)
        return node, size

    def call(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        shape: Sequence[Size],
        dtype: torch.dtype,
        stride: Sequence[Size] | None = None,
        /,
        **kwargs: Any,
    ) -> fx.Node:
        """One call with a tensor result; ``kwargs`` are the call's own."""
        node = self.graph.call_function(target, args, kwargs)
        self.meta.call(node, self.fake(shape, dtype, stride))
        return node

    def call_tuple(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        values: tuple[Any, ...],
        /,
        **kwargs: Any,
    ) -> fx.Node:
        """One call with several results, their fake values given; ``kwargs`` are the call's."""
        node = self.graph.call_function(target, args, kwargs)
        self.meta.call(node, values)
        return node

    def size(self, target: Callable[..., Any], args: tuple[Any, ...], value: Size) -> fx.Node:
        """One call that computes a size."""
        node = self.graph.call_function(target, args)
        self.meta.call(node, value)
        return node

    def getitem(self, source: fx.Node, index: int) -> fx.Node:
        """One of several results: shares the fake value, as a traced graph does."""
        import operator

        node = self.graph.call_function(operator.getitem, (source, index))
        self.meta.call(node, source.meta["val"][index])
        return node

    def finish(self, outputs: Sequence[fx.Node]) -> fx.Graph:
        """Adds the output node and returns the graph."""
        self.meta.output(self.graph.output(tuple(outputs)), list(outputs))
        return self.graph
