"""Graphs of sums of reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
RANKS = 2


class Sums(GraphBuilder):
    """A graph of sums of reductions of ``parts``, which differ from rank to rank."""

    def __init__(self, dialect: str = "functional", dynamic: bool = False, dtype: Any = None):
        super().__init__(8, dynamic)
        self.dialect = dialect
        self.rows = TOKENS if dynamic else 8
        self.dtype = dtype if dtype is not None else torch.float32

    def part(self, name: str) -> fx.Node:
        return self.placeholder(name, (self.rows, 4), self.dtype, "per_rank")

    def reduced(self, name: str | fx.Node, group: str = "0", op: str = "sum") -> fx.Node:
        part = self.part(name) if isinstance(name, str) else name
        if self.dialect == "vllm":
            return self.call(torch.ops.vllm.all_reduce.default, part, f"tp:{group}")
        return self.call(
            c10d.wait_tensor.default, self.call(c10d.all_reduce.default, part, op, group)
        )

    def scattered(self, name: str) -> fx.Node:
        part = self.part(name)
        if self.dialect == "vllm":
            return self.call(torch.ops.vllm.reduce_scatter.default, part, 0, RANKS, "tp:0")
        scatter = self.call(c10d.reduce_scatter_tensor.default, part, "sum", RANKS, "0")
        return self.call(c10d.wait_tensor.default, scatter)

    def add(self, left: fx.Node, right: Any, **kwargs: Any) -> fx.Node:
        return self.call(aten.add.Tensor, left, right, **kwargs)
