"""Random graphs to match on, built node by node: they are never run, so sizes need not fit.

Shared subgraphs, ops with several results, literals on either side, None and lists among the
arguments, symbolic sizes, a mutation or another stream here and there.
"""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from pattern_matcher.graphs import Inputs
from torch.fx._lazy_graph_module import _LazyGraphModule

aten, prims = torch.ops.aten, torch.ops.prims
LITERALS = (0, 1, 2, 2.0, 0.5, -1, True)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
UNARY = (aten.relu.default, aten.neg.default, aten.sin.default)
BINARY = (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor)


@functools.cache
def values() -> tuple[Any, ...]:
    """A symbolic size and some fake tensors: nothing writes to them, so all graphs share them."""
    make = Inputs(s=6)
    return make.sizes["s"], make.tensor("s", 8), make.tensor(6, 8), make.tensor(8)


class RandomGraph:
    """One graph being drawn.

    Args:
        rng: the source of choices; the same state gives the same graph.
        size: how many calls.
    """

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng = rng
        self.graph = fx.Graph()
        self.symbol, *self.vals = values()
        self.tensors: list[fx.Node] = []
        self.sizes: list[fx.Node] = []
        for _ in range(rng.randint(1, 3)):
            self.tensors.append(self.noted(self.graph.placeholder("x")))
        if rng.random() < 0.5:
            size_node = self.graph.placeholder("s")
            size_node.meta["val"] = self.symbol
            self.sizes.append(size_node)
        for _ in range(size):
            self.step()
        unused = [n for n in self.tensors if not n.users]
        rng.shuffle(unused)
        outputs = unused[: rng.randint(1, max(1, len(unused)))] or [self.tensors[-1]]
        self.graph.output(tuple(outputs))

    def noted(self, node: fx.Node) -> fx.Node:
        node.meta["val"] = self.rng.choice(self.vals)
        if node.op != "placeholder":
            node.meta["stack_trace"] = f"line {len(self.tensors)}"
            if self.rng.random() < 0.05:
                node.meta["custom"] = {"stream": self.rng.randint(0, 1)}
            if self.rng.random() < 0.1:
                node.meta["recompute"] = self.rng.randint(0, 2)
        return node

    def tensor(self) -> fx.Node:
        """Mostly a recent value, so that graphs are deep and share."""
        recent = self.tensors[-4:]
        return self.rng.choice(recent if self.rng.random() < 0.7 else self.tensors)

    def operand(self) -> Any:
        return self.tensor() if self.rng.random() < 0.7 else self.rng.choice(LITERALS)

    def dim(self) -> Any:
        if self.sizes and self.rng.random() < 0.5:
            return self.rng.choice(self.sizes)
        return self.rng.choice((-1, 2, 4, 8))

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.noted(self.graph.call_function(target, args, kwargs))
        self.tensors.append(node)
        return node

    def step(self) -> None:
        kinds: tuple[tuple[Callable[[], Any], int], ...] = (
            (self.unary, 6),
            (self.binary, 8),
            (self.listed, 3),
            (self.indexed, 1),
            (self.viewed, 2),
            (self.clamped, 2),
            (self.several, 2),
            (self.summed, 1),
            (self.cast, 2),
            (self.size, 1),
            (self.method, 1),
            (self.mutation, 1 if self.rng.random() < 0.3 else 0),
        )
        self.rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]()

    def unary(self) -> None:
        self.call(self.rng.choice(UNARY), self.tensor())

    def binary(self) -> None:
        first, second = self.tensor(), self.operand()
        if self.rng.random() < 0.2:
            first, second = second, first
        kwargs = {}
        target = self.rng.choice(BINARY)
        if target is not aten.mul.Tensor and self.rng.random() < 0.25:
            kwargs["alpha"] = self.rng.choice((1, 2, 3))
        self.call(target, first, second, **kwargs)

    def listed(self) -> None:
        parts = [self.tensor() for _ in range(self.rng.randint(1, 3))]
        target = self.rng.choice((aten.cat.default, aten.stack.default))
        self.call(target, parts, *([self.rng.choice((0, 1))] if self.rng.random() < 0.7 else []))

    def indexed(self) -> None:
        index = [self.rng.choice((None, self.tensor())) for _ in range(self.rng.randint(1, 3))]
        self.call(aten.index.Tensor, self.tensor(), index)

    def viewed(self) -> None:
        sizes = [self.dim() for _ in range(self.rng.randint(1, 3))]
        target = self.rng.choice((aten.view.default, aten.expand.default))
        self.call(target, self.tensor(), sizes)

    def clamped(self) -> None:
        low, high = self.rng.choice((None, 0, 0.5)), self.rng.choice((None, 1, 1.5))
        if self.rng.random() < 0.5:
            self.call(aten.clamp.default, self.tensor(), low, high)
        else:
            self.call(aten.clamp.default, self.tensor(), min=low, max=high)

    def several(self) -> None:
        split = self.graph.call_function(aten.split.Tensor, (self.tensor(), 4, 1))
        self.noted(split)
        for i in self.rng.sample(range(3), self.rng.randint(1, 3)):
            self.call(operator.getitem, split, i)

    def summed(self) -> None:
        keep = [self.rng.random() < 0.5] if self.rng.random() < 0.7 else []
        self.call(aten.sum.dim_IntList, self.tensor(), [self.rng.choice((0, 1, -1))], *keep)

    def cast(self) -> None:
        dtype = self.rng.choice(DTYPES)
        if self.rng.random() < 0.5:
            self.call(prims.convert_element_type.default, self.tensor(), dtype)
        else:
            self.call(aten._to_copy.default, self.tensor(), dtype=dtype)

    def size(self) -> None:
        if self.sizes:
            pair = (self.rng.choice(self.sizes), self.rng.choice((2, 8)))
            node = self.graph.call_function(
                operator.mul, pair if self.rng.random() < 0.5 else pair[::-1]
            )
            node.meta["val"] = self.symbol
        else:
            node = self.graph.call_function(aten.sym_size.int, (self.tensor(), 0))
            node.meta["val"] = self.symbol
        self.sizes.append(node)

    def method(self) -> None:
        node = self.graph.call_method("relu", (self.tensor(),))
        self.tensors.append(self.noted(node))

    def mutation(self) -> None:
        self.call(aten.add_.Tensor, self.tensor(), self.operand())


def random_graph(seed: int) -> fx.GraphModule:
    """The graph of a seed."""
    rng = random.Random(seed)
    graph = RandomGraph(rng, rng.randint(4, 18)).graph
    # Code is generated when somebody calls the module, and nobody does.
    return _LazyGraphModule(torch.nn.Module(), graph)
