"""A drawn graph as plain data: what it reads, what it calls, what it returns.

A :class:`Program` prints as the Python that makes it, is cheap to cut down, and is built into the
FX graph of any rank, with the values that FakeTensorMode computes.
"""

from __future__ import annotations

import copy
import math
import operator
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from tests.pool.world import World

Dim = int | str
"""A literal, or a product of symbols and literals such as "2*b*s"."""


class V(str):
    """The name of an earlier value, as an operand."""

    def __repr__(self) -> str:
        return f"V({str.__repr__(self)})"


class Op(str):
    """The name of an operator, as an operand."""

    def __repr__(self) -> str:
        return f"Op({str.__repr__(self)})"

    def resolved(self) -> Any:
        """The operator itself."""
        return resolve(self)


@dataclass(frozen=True)
class PerRank:
    """A literal that each rank's graph has for itself."""

    values: tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """A placeholder.

    Attributes:
        name: of the placeholder.
        dims: its dims; for a size, the one symbol that it is.
        dtype: of the tensor.
        differs: the axes of the mesh along which its values differ; none: the same everywhere.
        layout: "dense", "transposed" (the last two dims), "padded" (rows farther apart) or "offset"
            (padded, and not at the start of its storage).
        fill: "normal", "gain" (near 1), "small", "mask", "index:K" (0 to K - 1), or "size".
    """

    name: str
    dims: tuple[Dim, ...]
    dtype: torch.dtype = torch.float64
    differs: tuple[str, ...] = ()
    layout: str = "dense"
    fill: str = "normal"

    def allocate(self, sizes: Mapping[str, Any]) -> torch.Tensor:
        """A tensor of this layout, to be filled."""
        shape = [size_of(dim, sizes) for dim in self.dims]
        if self.layout == "transposed":
            shape[-1], shape[-2] = shape[-2], shape[-1]
            return torch.empty(shape, dtype=self.dtype).transpose(-1, -2)
        if self.layout in ("padded", "offset"):
            start = 1 if self.layout == "offset" else 0
            # What reads memory as it lies (as_strided) reads what is between the rows, too.
            wide = torch.zeros([*shape[:-1], shape[-1] + 2], dtype=self.dtype)
            return wide.narrow(-1, start, shape[-1])
        return torch.empty(shape, dtype=self.dtype)

    def value(self, rank: int, world: World, sizes: Mapping[str, int], seed: int) -> Any:
        """What this placeholder is on ``rank``: a tensor, or an int for a size."""
        if self.fill == "size":
            return size_of(self.dims[0], sizes)
        place = [world.coordinate(rank, axis) for axis in self.differs]
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{self.name}/{seed}/{place}".encode())
        )
        shape = [size_of(dim, sizes) for dim in self.dims]
        if self.fill.startswith("index"):
            drawn = torch.randint(0, int(self.fill.split(":")[1]), shape, generator=generator)
        elif self.fill == "mask":
            drawn = torch.randint(0, 2, shape, generator=generator)
        else:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            if self.fill == "gain":
                drawn = 1 + 0.1 * drawn
            elif self.fill == "small":
                drawn = 0.4 * drawn
        return self.allocate(sizes).copy_(drawn)


@dataclass(frozen=True)
class Step:
    """A call of an operator.

    Attributes:
        name: of the value.
        target: the operator, such as "aten.add.Tensor" or "operator.getitem".
        args: its operands, earlier values as :class:`V`.
        kwargs: its operands by name.
        ranks: the ranks that make this call; on others the value is the first operand.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    ranks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Program:
    """A drawn graph, with the mesh that it runs on and the config that it is rewritten with.

    Attributes:
        world: the ranks.
        symbols: the symbolic sizes and their example values.
        may_be_zero: whether a symbol may be 0 or 1.
        inputs: the placeholders.
        steps: the calls, in order.
        outputs: the names of what is returned.
        config: fields of the config.
        same_random: whether all ranks draw the same random numbers.
        evident: whether each value that a rank has for itself shows it by a collective.
        seed: of the inputs' values.
    """

    world: World
    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    symbols: dict[str, int] = field(default_factory=dict)
    may_be_zero: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    same_random: bool = False
    evident: bool = True
    seed: int = 0

    def __str__(self) -> str:
        lines = ["Program(", f"    {self.world!r},", "    inputs=("]
        lines += [f"        {each!r}," for each in self.inputs]
        lines += ["    ),", "    steps=("]
        for step in self.steps:
            more = f", {step.kwargs!r}" if step.kwargs or step.ranks is not None else ""
            more += f", {step.ranks!r}" if step.ranks is not None else ""
            lines.append(f"        Step({step.name!r}, {step.target!r}, {step.args!r}{more}),")
        lines += ["    ),", f"    outputs={self.outputs!r},"]
        for name in ("symbols", "may_be_zero", "config", "same_random", "evident", "seed"):
            lines.append(f"    {name}={getattr(self, name)!r},")
        return "\n".join([*lines, ")"])

    def by_rank(self) -> bool:
        """Whether the graphs of two ranks differ."""
        return any(
            step.ranks is not None or any(isinstance(each, PerRank) for each in step.args)
            for step in self.steps
        )

    def feeds(self, sizes: Mapping[str, int] | None = None) -> list[list[Any]]:
        """Fresh values of the inputs, for each rank."""
        known = {**self.symbols, **(sizes or {})}
        return [
            [each.value(rank, self.world, known, self.seed) for each in self.inputs]
            for rank in range(self.world.size)
        ]


def resolve(target: str) -> Any:
    """The operator that a target names.

    Raises:
        AttributeError: this torch has none of that name.
    """
    first, *rest = target.split(".")
    found: Any = {"operator": operator, "math": math, "torch": torch}.get(first)
    if found is None:
        found = getattr(torch.ops, first)
    for part in rest:
        found = getattr(found, part)
    return found


def size_of(dim: Dim, sizes: Mapping[str, Any]) -> Any:
    """The size of a dim, given those of the symbols."""
    if isinstance(dim, int):
        return dim
    return math.prod(int(part) if part.isdigit() else sizes[part] for part in dim.split("*"))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with ``change`` applied to each leaf of its lists, tuples and dicts."""
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(each, change) for each in value)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    return change(value)


def leaves(value: Any) -> Iterator[Any]:
    """What stands in lists, tuples and dicts, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def reads(step: Step) -> list[str]:
    """The names of the values that a step reads."""
    return [str(each) for each in leaves([step.args, step.kwargs]) if isinstance(each, V)]


class Fakes:
    """The fake values of a program's symbols and steps, under one FakeTensorMode."""

    def __init__(self, symbols: Mapping[str, int], may_be_zero: bool) -> None:
        self.env = ShapeEnv(specialize_zero_one=not may_be_zero, duck_shape=False)
        self.mode = FakeTensorMode(shape_env=self.env)
        self.sizes: dict[str, Any] = {}
        for name, hint in symbols.items():
            source = ConstantSource(name)
            symbol = self.env.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC)
            self.sizes[name] = self.env.create_symintnode(symbol, hint=hint, source=source)

    def input(self, spec: Input) -> Any:
        """The fake value of a placeholder."""
        if spec.fill == "size":
            return size_of(spec.dims[0], self.sizes)
        with self.mode:
            return spec.allocate(self.sizes)

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The fake value of a call on fake values."""
        with self.mode:
            return target(*args, **kwargs)


def build(program: Program, rank: int = 0, values: Mapping[str, Any] | None = None) -> fx.Graph:
    """The graph that ``rank`` compiles, with fake values in ``meta["val"]``.

    Args:
        program: what to build.
        rank: whose graph.
        values: the fake values, where they are known already.

    Raises:
        Exception: whatever an operator raises on operands that it does not take.
    """
    fakes = Fakes(program.symbols, program.may_be_zero)
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    for spec in program.inputs:
        made[spec.name] = graph.placeholder(spec.name)
        made[spec.name].meta["val"] = values[spec.name] if values else fakes.input(spec)

    def operand(value: Any) -> Any:
        if isinstance(value, V):
            return made[value]
        if isinstance(value, Op):
            return value.resolved()
        return value.values[rank] if isinstance(value, PerRank) else value

    def fake(value: Any) -> Any:
        return value.meta["val"] if isinstance(value, fx.Node) else value

    known = dict(values or {})
    for step in program.steps:
        args, kwargs = mapped(step.args, operand), mapped(step.kwargs, operand)
        if step.ranks is not None and rank not in step.ranks:
            made[step.name] = args[0]
            continue
        target = resolve(step.target)
        node = graph.create_node("call_function", target, args, kwargs, name=step.name)
        if step.name not in known:
            known[step.name] = fakes.call(target, mapped(args, fake), mapped(kwargs, fake))
        node.meta["val"] = known[step.name]
        made[step.name] = node
    graph.output(tuple(made[name] for name in program.outputs))
    return graph


def build_all(program: Program, values: Mapping[str, Any] | None = None) -> list[fx.Graph]:
    """The graphs of all ranks; copies of one where they are the same."""
    first = build(program, 0, values)
    if not program.by_rank():
        return [first, *(copy.deepcopy(first) for _ in range(1, program.world.size))]
    values = {node.name: node.meta["val"] for node in first.nodes if "val" in node.meta}
    return [first, *(build(program, rank, values) for rank in range(1, program.world.size))]
