"""Pairs of small graphs, before and after, and what the verifier says of them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier import verify

aten, vllm, funcol, ir = (
    torch.ops.aten,
    torch.ops.vllm,
    torch.ops._c10d_functional,
    torch.ops.vllm_ir,
)
G = "tp:0"
Body = Callable[["Maker"], Any]


class Maker(GraphBuilder):
    """A graph with the inputs that pairs share."""

    def __init__(self, dynamic: bool = False) -> None:
        super().__init__(tokens=8, dynamic=dynamic)
        self.x, self.res, self.buffer = (self.stream(name) for name in ("x", "res", "buffer"))
        self.weight = self.placeholder("weight", (8,), torch.float32)
        self.matrix = self.placeholder("matrix", (8, 8), torch.float32)

    def stream(self, name: str) -> fx.Node:
        return self.placeholder(name, (TOKENS if self.dynamic else 8, 8), torch.float32)

    @property
    def dynamic(self) -> bool:
        return isinstance(self.tokens, torch.SymInt)

    def reduce(self, x: fx.Node, group: str = G) -> fx.Node:
        return self.call(vllm.all_reduce.default, x, group)

    def scatter(self, x: fx.Node, group: str = G) -> fx.Node:
        return self.call(vllm.reduce_scatter.default, x, 0, 2, group)

    def gather(self, x: fx.Node, group: str = G) -> fx.Node:
        return self.call(vllm.all_gather.default, x, 0, 2, group)

    def norm(self, x: fx.Node) -> fx.Node:
        return self.call(ir.rms_norm.default, x, self.weight, 1e-6)

    def relu(self, x: fx.Node) -> fx.Node:
        return self.call(aten.relu.default, x)

    def rows(self, x: fx.Node, start: int, end: int) -> fx.Node:
        return self.call(aten.slice.Tensor, x, 0, start, end)

    def part(self, x: fx.Node, index: int) -> fx.Node:
        return self.call(operator.getitem, x, index)

    def add(self, left: fx.Node, right: fx.Node) -> fx.Node:
        return self.call(aten.add.Tensor, left, right)

    def bits(self, x: fx.Node, dtype: torch.dtype) -> fx.Node:
        return self.call(aten.view.dtype, x, dtype)


def pair(before: Body, after: Body, dynamic: bool = False, **fields: Any) -> dict[str, str]:
    """The problems of a pair of graphs, by node."""
    graphs = []
    for body in (before, after):
        made = Maker(dynamic) if not graphs or not dynamic else Maker(dynamic)
        result = body(made)
        made.output(list(result) if isinstance(result, (list, tuple)) else [result])
        graphs.append(made.graph)
    config = SequenceParallelConfig(**{"tp_size": 2, "tp_rank": 1, **fields})
    return {p.node: p.reason for p in verify(graphs[0], graphs[1], config).problems}
