"""Builds small graphs whose nodes carry fake values and whose inputs exist for every rank."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

TOKENS = "tokens"
"""Stands, in an input's shape, for the size that is symbolic in a dynamic graph."""

Dim = int | str


@dataclass(frozen=True)
class InputSpec:
    """How one placeholder is filled.

    Attributes:
        name: the placeholder.
        shape: its dims; ``TOKENS`` for the symbolic one.
        dtype: its dtype.
        kind: "replicated" (equal on all ranks), "per_rank", "gain" (near one, equal on all ranks),
            "constant" (the value of ``value`` on all ranks) or "size" (an int, the token count).
        value: what a constant is filled with, and the scale of random ones.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: torch.dtype
    kind: str
    value: float = 1.0

    def make(self, rank: int, tokens: int, seed: int) -> Any:
        """The value of this placeholder on ``rank``, for ``tokens`` in the symbolic dimension."""
        if self.kind == "size":
            return tokens
        shape = [tokens if dim == TOKENS else int(dim) for dim in self.shape]
        if self.kind == "constant":
            return torch.full(shape, self.value, dtype=self.dtype)
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{self.name}/{seed}/{rank if self.kind == 'per_rank' else 'all'}".encode())
        )
        values = torch.randn(shape, generator=generator, dtype=torch.float32) * self.value
        return (values * 0.1 + 1.0 if self.kind == "gain" else values).to(self.dtype)


class GraphBuilder:
    """A graph under construction; each call is evaluated on fake tensors for its meta["val"].

    Args:
        tokens: the size of the token dimension: its value, or its hint when it is symbolic.
        dynamic: whether that dimension is symbolic.

    Example:
        >>> import torch
        >>> builder = GraphBuilder(tokens=4, dynamic=False)
        >>> x = builder.placeholder("x", (TOKENS, 8), torch.float32)
        >>> builder.call(torch.ops.aten.relu.default, x).meta["val"].shape
        torch.Size([4, 8])
    """

    def __init__(self, tokens: int, dynamic: bool) -> None:
        self.graph = fx.Graph()
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        self.inputs: list[InputSpec] = []
        self.hint = tokens
        self.tokens: int | torch.SymInt = self._symbol(tokens) if dynamic else tokens
        self._last_placeholder: fx.Node | None = None

    def _symbol(self, hint: int) -> torch.SymInt:
        env = self.mode.shape_env
        assert env is not None
        source = ConstantSource("tokens")
        symbol = env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        size = env.create_symintnode(symbol, hint=hint, source=source)
        assert isinstance(size, torch.SymInt)
        return size

    def placeholder(
        self,
        name: str,
        shape: Sequence[Dim],
        dtype: torch.dtype,
        kind: str = "replicated",
        value: float = 1.0,
    ) -> fx.Node:
        """Adds an input after those that are there (see :class:`InputSpec`)."""
        if self._last_placeholder is None:
            first = next(iter(self.graph.nodes), None)
            context = (
                self.graph.inserting_before(first)
                if first is not None
                else self.graph.inserting_before()
            )
        else:
            context = self.graph.inserting_after(self._last_placeholder)
        taken = sum(
            spec.name.rpartition("_")[0] == name or spec.name == name for spec in self.inputs
        )
        with context:
            # The name is an argument of the generated code too: it must be unique by itself.
            node = self.graph.placeholder(f"{name}_{taken}" if taken else name)
        self._last_placeholder = node
        self.inputs.append(InputSpec(node.name, tuple(shape), dtype, kind, value))
        if kind == "size":
            node.meta["val"] = self.tokens
        else:
            with self.mode:
                node.meta["val"] = torch.empty(
                    [self.tokens if dim == TOKENS else int(dim) for dim in shape],
                    dtype=dtype,
                    device="cpu",
                )
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Appends a call, evaluated on the fake values of its operands."""
        node = self.graph.call_function(target, args, kwargs)
        with self.mode:
            node.meta["val"] = target(
                *fx.node.map_arg(args, lambda n: n.meta["val"]),
                **fx.node.map_arg(kwargs, lambda n: n.meta["val"]),
            )
        return node

    def output(self, values: Sequence[fx.Node]) -> None:
        """Ends the graph; it returns a tuple."""
        self.graph.output(tuple(values))
        self.graph.lint()


def shape_of(node: fx.Node) -> tuple[Any, ...]:
    """The shape that a node carries in its meta["val"]."""
    return tuple(node.meta["val"].shape)
