"""A program under construction: each call is run at once, on real tensors and on fake ones.

A call is kept where both accept it and agree, so that what is drawn is valid by construction: no
rule about operators is needed here beyond how to choose operands that fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.pool.kept import (
    Rejected,
    agree,
    dim_of,
    fits,
    narrows,
    put_back,
    useful,
    writable,
    writes,
)
from tests.pool.lockstep import group_of, is_collective, perform, random_states, tensors, with_state
from tests.pool.program import Dim, Fakes, Input, Op, PerRank, Step, V, mapped, resolve
from tests.pool.world import World


class Draw:
    """Values that are there, and the ways to make more of them.

    Attributes:
        random: decides everything.
        world: the ranks.
        rows: the dims of a token: ("s0",), (2, 4), ("b", "s").
        hidden: the features of the stream.
        exact: whether everything is float64, so that results can be compared to 1e-9.
        dialect: "functional" or "vllm".
        far: how likely an input is one that differs by rank.
        pool: the names that anything may read.
        stream: the residual stream, once there is one.
    """

    def __init__(
        self,
        chooser: random.Random,
        world: World,
        symbols: dict[str, int],
        may_be_zero: bool,
        same_random: bool,
    ) -> None:
        self.random = chooser
        self.world = world
        self.symbols = symbols
        self.may_be_zero = may_be_zero
        self.rows: tuple[Dim, ...] = (8,)
        self.hidden = 4
        self.exact = True
        self.dialect = "functional"
        self.far = 0.3
        self.seed = 0
        self.inputs: list[Input] = []
        self.steps: list[Step] = []
        self.fake: dict[str, Any] = {}
        self.live: dict[str, list[Any]] = {}
        self.pool: list[str] = []
        self.stream: V | None = None
        self._fakes = Fakes(symbols, may_be_zero)
        self._states = random_states(world, same_random)
        self._guards = 0
        self._clean = True
        self._count = 0

    # --- values ---------------------------------------------------------------------------------

    def input(
        self,
        dims: Sequence[Dim],
        dtype: torch.dtype = torch.float64,
        differs: Sequence[str] | None = None,
        layout: str | None = None,
        fill: str = "normal",
        stem: str = "x",
    ) -> V:
        """Adds a placeholder; without ``differs`` chance says whether ranks have their own."""
        if differs is None:
            differs = self.some_axes() if self.random.random() < self.far else ()
        if layout is None:
            layout = "dense"
            if len(dims) >= 2 and self.random.random() < 0.12:
                layout = self.random.choice(["padded", "offset", "transposed"])
        if layout == "transposed" and any(isinstance(each, str) for each in dims[-2:]):
            layout = "padded"
        spec = Input(
            self._name("sz" if fill == "size" else ("l" if differs else "") + stem),
            tuple(dims),
            dtype,
            tuple(differs),
            layout,
            fill,
        )
        self.fake[spec.name] = self._fakes.input(spec)
        self.live[spec.name] = [
            spec.value(rank, self.world, self.symbols, self.seed) for rank in range(self.world.size)
        ]
        self.inputs.append(spec)
        return V(spec.name)

    def some_axes(self) -> tuple[str, ...]:
        """The axes along which a value of a rank's own differs."""
        if self.world.dp == 1:
            return ("tp",)
        return self.random.choice([("tp",), ("tp",), ("dp",), ("tp", "dp")])

    def keep(self, *names: V) -> V:
        """Puts values where anything may read them; yields the last."""
        self.pool += [name for name in names if name not in self.pool]
        return names[-1]

    def call(
        self, target: str, *args: Any, only: tuple[int, ...] | None = None, **kwargs: Any
    ) -> V:
        """Appends a call.

        Raises:
            Rejected: it raises, on real or on fake operands, or they disagree, or its values are of
                no use.
        """
        try:
            operator = resolve(target)
        except AttributeError as error:
            raise Rejected(str(error)) from None
        step = Step(self._name("v"), target, args, kwargs, only)
        changes = writes(operator, args)
        before = [
            [each.untyped_storage().clone() for each in tensors(self._operands(args, rank))]
            if changes
            else []
            for rank in range(self.world.size)
        ]
        states, guards = list(self._states), self._guards
        try:
            values = self._run(operator, step)
            for value in values:
                useful(value)
            fake = self._fake_call(operator, step)
            agree(fake, values[0])
        except Exception as error:
            self._states = states
            self._clean = self._clean and self._guards == guards
            for rank, kept in enumerate(before if changes else ()):
                put_back(list(tensors(self._operands(args, rank))), kept)
            if isinstance(error, Rejected):
                raise
            raise Rejected(f"{target}: {type(error).__name__}: {error}") from None
        self.steps.append(step)
        self.fake[step.name] = fake
        self.live[step.name] = values
        return V(step.name)

    def part(self, name: V, index: int) -> V:
        """One of several results."""
        return self.call("operator.getitem", name, index)

    def parts(self, name: V) -> list[V]:
        """All results of a call that has several."""
        return [self.part(name, index) for index in range(len(self.fake[name]))]

    # --- what is known of a value ---------------------------------------------------------------

    def shape(self, name: str) -> tuple[Dim, ...]:
        """The sizes of a value; symbolic ones as text."""
        return tuple(dim_of(size, self._fakes) for size in self.fake[name].shape)

    def sizes(self, name: str) -> tuple[int, ...]:
        """The sizes that a value has in this draw."""
        return tuple(self.live[name][0].shape)

    def dims(self, name: str) -> int:
        """The number of dims of a value."""
        return self.fake[name].dim()

    def is_tensor(self, name: str) -> bool:
        """Whether a value is a tensor."""
        return isinstance(self.fake[name], torch.Tensor)

    def is_float(self, name: str) -> bool:
        """Whether a value is a tensor of float64, or of another type that computes."""
        value = self.fake[name]
        return (
            isinstance(value, torch.Tensor)
            and value.dtype.is_floating_point
            and value.dtype.itemsize > 1
        )

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a value."""
        return self.fake[name].dtype

    def size(self, name: str, dim: int) -> Any:
        """A dim of a value as an operand: a literal, or a value that is that size."""
        size = self.fake[name].shape[dim]
        text = dim_of(size, self._fakes)
        if isinstance(text, int):
            return text
        known = [
            other
            for other, value in self.fake.items()
            if isinstance(value, torch.SymInt) and dim_of(value, self._fakes) == text
        ]
        if known and self.random.random() < 0.7:
            return V(self.random.choice(known))
        return self.call("aten.sym_size.int", V(name), dim)

    def rows_operand(self) -> list[Any]:
        """The dims of a token as operands, read off the stream."""
        stream = self.the_stream()
        return [self.size(stream, place) for place in range(len(self.rows))]

    def product(self, sizes: Sequence[Any]) -> Any:
        """The product of sizes as an operand."""
        total: Any = 1
        for size in sizes:
            if isinstance(total, int) and isinstance(size, int):
                total *= size
            elif total == 1 and not isinstance(total, V):
                total = size
            else:
                total = self.call("operator.mul", total, size)
        return total

    # --- choosing -------------------------------------------------------------------------------

    def chance(self, likely: float) -> bool:
        """True as often as said."""
        return self.random.random() < likely

    def choose(self, items: Sequence[Any]) -> Any:
        """One of some."""
        return self.random.choice(items)

    def pick(self, fits: Callable[[str], bool] | None = None) -> V:
        """A value of the pool, a late one more often.

        Raises:
            Rejected: none fits.
        """
        found = [name for name in self.pool if fits is None or fits(name)]
        if not found:
            raise Rejected("nothing in the pool fits")
        place = max(self.random.random(), self.random.random())
        return V(found[int(len(found) * place)])

    def tensor(self, least: int = 0, most: int = 4) -> V:
        """Any tensor of some dims that computes."""
        return self.pick(lambda name: self.is_float(name) and least <= self.dims(name) <= most)

    def like(self, name: str) -> V:
        """A float value of the same shape: of the pool, or a new input."""
        shape = self.shape(name)
        found = [
            other
            for other in self.pool
            if other != name and self.is_float(other) and self.shape(other) == shape
        ]
        if found and self.chance(0.8):
            return V(self.choose(found))
        return self.keep(self.input(writable(shape), self.dtype(name)))

    def broadcasts(self, name: str) -> V:
        """A float value that broadcasts against another: of its shape, or fewer or single dims."""
        if self.dims(name) == 0 or self.chance(0.55):
            return self.like(name)
        shape = self.shape(name)
        found = [
            other
            for other in self.pool
            if self.is_float(other) and other != name and fits(self.shape(other), shape)
        ]
        if found and self.chance(0.7):
            return V(self.choose(found))
        dims = list(shape[self.random.randrange(len(shape)) :])
        if self.chance(0.4):
            dims[self.random.randrange(len(dims))] = 1
        return self.keep(self.input(writable(dims), self.dtype(name), layout="dense"))

    def a_dim(self, name: str) -> int:
        """A dim of a value, from the front or from the back."""
        count = self.dims(name)
        if count == 0:
            raise Rejected("a value without dims")
        return self.random.randrange(-count, count)

    def the_stream(self) -> V:
        """The residual stream; made now if there is none."""
        if self.stream is None:
            self.stream = self.keep(self.input((*self.rows, self.hidden), differs=(), stem="res"))
        return self.stream

    # --- inside ---------------------------------------------------------------------------------

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def _operands(self, operands: Any, rank: int) -> Any:
        def one(value: Any) -> Any:
            if isinstance(value, V):
                return self.live[value][rank]
            if isinstance(value, Op):
                return value.resolved()
            return value.values[rank] if isinstance(value, PerRank) else value

        return mapped(operands, one)

    def _run(self, operator: Any, step: Step) -> list[Any]:
        ranks = range(self.world.size)
        calls = [
            (self._operands(step.args, rank), self._operands(step.kwargs, rank)) for rank in ranks
        ]
        values: list[Any] = [None] * self.world.size
        with torch.no_grad():
            if is_collective(operator):
                for rank in ranks:
                    members = self.world.members(group_of(calls[rank][0]), rank)
                    if members[0] != rank:
                        continue
                    results = perform(operator, [calls[each][0] for each in members], len(members))
                    for member, value in zip(members, results, strict=True):
                        values[member] = value
                return values
            for rank in ranks:
                args, kwargs = calls[rank]
                if step.ranks is not None and rank not in step.ranks:
                    values[rank] = args[0]
                else:
                    values[rank] = with_state(self._states, rank, operator, args, kwargs)
        return values

    def _fake_call(self, operator: Any, step: Step) -> Any:
        def one(value: Any) -> Any:
            if isinstance(value, V):
                return self.fake[value]
            if isinstance(value, Op):
                return value.resolved()
            return value.values[0] if isinstance(value, PerRank) else value

        try:
            return self._fakes.call(operator, mapped(step.args, one), mapped(step.kwargs, one))
        finally:
            guards = self._fakes.env.guards[self._guards :]
            self._guards += len(guards)
            if any(narrows(guard.expr) for guard in guards):
                self.start_anew()
                raise Rejected("it holds for one size only")

    def values(self) -> dict[str, Any] | None:
        """The fake values, unless a call that is not kept left its guards among them."""
        return self.fake if self._clean else None

    def start_anew(self) -> None:
        """Makes all fake values again, without what the last call made certain."""
        self._fakes = Fakes(self.symbols, self.may_be_zero)
        self._guards = 0
        self.fake = {spec.name: self._fakes.input(spec) for spec in self.inputs}
        for step in self.steps:
            self.fake[step.name] = self._fake_call(resolve(step.target), step)
