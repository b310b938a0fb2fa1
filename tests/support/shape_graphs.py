"""Graphs with several symbolic dims and strides of their own, run on all ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

import spfast
from spfast.fxgraph.strides import is_vaguer, quiet_mode
from spfast.testing.equivalence import clone_inputs
from spfast.testing.lockstep import run_lockstep

c10d: Any = torch.ops._c10d_functional
Size = int | str


class ShapeGraph:
    """A graph under construction, each call evaluated on fake tensors.

    Args:
        symbols: The symbolic sizes by name, each with its example.
    """

    def __init__(self, **symbols: int) -> None:
        self.graph = fx.Graph()
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env)
        self.examples = symbols
        self.symbols = {name: self._symbol(name, hint) for name, hint in symbols.items()}
        self.last: fx.Node | None = None  # of the inputs
        self.made: list[Callable[[Mapping[str, int], int], Any]] = []

    def _symbol(self, name: str, hint: int) -> Any:
        source = ConstantSource(name)
        symbol = self.env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        return self.env.create_symintnode(symbol, hint=hint, source=source)

    def _add(self, name: str, value: Any, make: Callable[[Mapping[str, int], int], Any]) -> fx.Node:
        first = next(iter(self.graph.nodes), None)
        place = self.last or first
        after = self.graph.inserting_after if self.last is not None else self.graph.inserting_before
        with after(place) if place is not None else contextlib.nullcontext():
            node = self.last = self.graph.placeholder(name)
        node.meta["val"] = value
        self.made.append(make)
        return node

    def full(self, name: str, *shape: Size, order: Sequence[int] = ()) -> fx.Node:
        """An input that is the same on every rank; ``order`` permutes its memory."""
        return self._tensor(name, shape, order, per_rank=False)

    def partial(self, name: str, *shape: Size, order: Sequence[int] = ()) -> fx.Node:
        """An input that each rank has its own of."""
        return self._tensor(name, shape, order, per_rank=True)

    def _tensor(
        self, name: str, shape: Sequence[Size], order: Sequence[int], per_rank: bool
    ) -> fx.Node:
        order = order or range(len(shape))

        def laid_out(sizes: Sequence[Any], seed: int | None) -> torch.Tensor:
            stored = [sizes[dim] for dim in order]
            if seed is None:
                memory = torch.empty(stored)
            else:
                generator = torch.Generator().manual_seed(seed)
                memory = torch.randn(stored, generator=generator)
            return memory.permute([list(order).index(dim) for dim in range(len(shape))])

        def make(values: Mapping[str, int], rank: int) -> torch.Tensor:
            sizes = [values[size] if isinstance(size, str) else size for size in shape]
            return laid_out(sizes, sum(map(ord, name)) * 100 + (rank if per_rank else 99))

        with self.mode:
            value = laid_out([self.symbols.get(size, size) for size in shape], None)  # type: ignore[arg-type]
        return self._add(name, value, make)

    def size(self, name: str) -> fx.Node:
        """A symbolic size as an input of the graph."""
        return self._add(f"size_{name}", self.symbols[name], lambda values, rank: values[name])

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        with self.mode:
            read = fx.node.map_arg((args, kwargs), lambda operand: operand.meta["val"])
            node.meta["val"] = target(*read[0], **read[1])
        return node

    def reduce(self, x: fx.Node) -> fx.Node:
        return self.call(
            c10d.wait_tensor.default, self.call(c10d.all_reduce.default, x, "sum", "0")
        )

    def done(self, *values: fx.Node) -> ShapeGraph:
        self.graph.output(values)
        self.graph.lint()
        return self


def rewritten(
    build: Callable[[], ShapeGraph],
    sites: int,
    ranks: int = 2,
    sizes: Sequence[Mapping[str, int]] = ({},),
    **options: Any,
) -> tuple[fx.Graph, spfast.Result]:
    """Rewrites the graph for every rank, and checks what it computes and what it says of itself.

    Returns:
        The last rank's graph and result.
    """
    before = build()
    after = []
    for rank in range(ranks):
        made = build()
        config = spfast.SequenceParallelConfig(tp_size=ranks, tp_rank=rank, **options)
        result = spfast.apply(made.graph, config)
        assert int(result) == sites, result
        made.graph.lint()
        assert_values_are_computed(made.graph)
        after.append(made.graph)
    assert len({tuple((node.name, node.target) for node in graph.nodes) for graph in after}) == 1
    for values in sizes:
        known = {**before.examples, **values}
        inputs = [[make(known, rank) for make in before.made] for rank in range(ranks)]
        wanted = run_lockstep([before.graph] * ranks, [clone_inputs(row) for row in inputs])
        got = run_lockstep(after, inputs)
        for one, other in zip(wanted, got, strict=True):
            for expected, actual in zip(one, other, strict=True):
                torch.testing.assert_close(actual, expected)
                if isinstance(expected, torch.Tensor):
                    assert actual.stride() == expected.stride()
    return after[-1], result


def assert_values_are_computed(graph: fx.Graph) -> None:
    """Every value is what FakeTensorMode computes of the values of the node's operands."""

    def spell(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [spell(part) for part in value]
        if not isinstance(value, torch.Tensor):
            return str(value)
        shape, offset = value.shape, value.storage_offset()
        return [value.dtype, *map(_known, (*shape, *value.stride(), offset))]

    with quiet_mode(graph):
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            value = node.target(*args, **kwargs)
            if is_vaguer(value, node.meta["val"]):
                continue
            assert spell(node.meta["val"]) == spell(value), node.format_node()


def _known(size: Any) -> int:
    """A symbolic size at its example: the ways to write a number are many."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def targets(graph: fx.Graph) -> list[str]:
    """The operators of a graph, in order."""
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]
