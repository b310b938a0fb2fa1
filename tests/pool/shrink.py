"""Cuts a failing program down: fewer outputs and calls, inputs in the place of calls, plain sizes.

Each smaller program is built and checked anew, and taken if it fails by the same kind.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.pool.checks import check
from tests.pool.generate import pruned
from tests.pool.kept import dim_of
from tests.pool.program import Fakes, Input, PerRank, Program, Step, V, mapped, reads, resolve
from tests.pool.world import World


def fails_with(kind: str) -> Callable[[Program], bool]:
    """Whether a program fails by a kind; one that is not valid does not."""

    def fails(program: Program) -> bool:
        if not _waits(program):
            return False
        try:
            return any(failure.kind == kind for failure in check(program, kind).failures)
        except Exception:
            return False

    return fails


def _waits(program: Program) -> bool:
    """Whether each result of a functional collective is read by its wait alone, as graphs do."""
    raw = {
        step.name
        for step in program.steps
        if step.target.startswith("_c10d_functional.") and "wait_tensor" not in step.target
    }
    if raw & set(program.outputs):
        return False
    for step in program.steps:
        if raw & set(reads(step)) and "wait_tensor" not in step.target:
            if step.target != "operator.getitem":
                return False
            raw.add(step.name)
    return True


def shrink(program: Program, fails: Callable[[Program], bool], most: int = 2000) -> Program:
    """The smallest program that was found and still fails, after at most ``most`` trials."""
    left = most
    changed = True
    while changed and left > 0:
        changed = False
        for candidate in _smaller(program):
            left -= 1
            if left <= 0:
                break
            if _weight(candidate) < _weight(program) and fails(candidate):
                program, changed = candidate, True
                break
    return program


def _weight(program: Program) -> tuple[int, ...]:
    return (
        len(program.steps),
        len(program.outputs),
        len(program.symbols),
        len(program.inputs),
        program.world.size,
        sum(len(each.differs) for each in program.inputs),
        sum(each.layout != "dense" for each in program.inputs),
        len(program.config) + sum(value not in _PLAIN for value in program.config.values()),
        sum(step.target not in _SIMPLE for step in program.steps),
    )


_PLAIN = ("both", "guard", "tp", "infer", 0)
_SIMPLE = ("aten.relu.default", "aten.add.Tensor", "aten.mul.Tensor", "aten.mm.default")


def _smaller(program: Program) -> Iterator[Program]:
    """Programs that are a step smaller, those that take most away first."""
    yield pruned(program)
    if len(program.outputs) > 1:
        half = len(program.outputs) // 2
        for outputs in (program.outputs[:half], program.outputs[half:]):
            yield pruned(dataclasses.replace(program, outputs=outputs))
        for name in program.outputs:
            rest = tuple(each for each in program.outputs if each != name)
            yield pruned(dataclasses.replace(program, outputs=rest))
    makers = {step.name: step for step in program.steps}
    for place, name in enumerate(program.outputs):
        for operand in reads(makers[name]) if name in makers else []:
            others = program.outputs[:place] + (operand,) + program.outputs[place + 1 :]
            yield pruned(dataclasses.replace(program, outputs=tuple(dict.fromkeys(others))))
    shapes = _shapes(program)
    for step in reversed(program.steps):
        yield from _without(program, step, shapes)
    for step in program.steps:
        for earlier in [step.name for step in program.steps]:
            if earlier == step.name:
                break
            if shapes.get(earlier) is not None and shapes.get(earlier) == shapes.get(step.name):
                yield pruned(_renamed(program, step.name, earlier))
    if program.symbols:
        for name in program.symbols:
            yield _static(program, name)
    yield from _plainer(program)


def _without(program: Program, step: Step, shapes: dict[str, Any]) -> Iterator[Program]:
    """Without a call: nothing, one of its operands, or an input takes its place."""
    rest = tuple(each for each in program.steps if each.name != step.name)
    if not any(step.name in reads(each) for each in rest) and step.name not in program.outputs:
        yield pruned(dataclasses.replace(program, steps=rest))
        return
    for operand in dict.fromkeys(reads(step)):
        if shapes.get(operand) is not None and shapes.get(operand) == shapes.get(step.name):
            yield pruned(_renamed(program, step.name, operand))
    known = shapes.get(step.name)
    if known is None:
        return
    dims, dtype = known
    if any(isinstance(dim, str) and dim.startswith("~") for dim in dims):
        return
    for differs in ((), program.world.axes[:1]):
        fill = (
            "normal" if dtype.is_floating_point else ("mask" if dtype == torch.bool else "index:2")
        )
        spec = Input(f"in_{step.name}", dims, dtype, differs, "dense", fill)
        yield pruned(dataclasses.replace(
            _renamed(program, step.name, spec.name), inputs=(*program.inputs, spec)
        ))  # fmt: skip


def _renamed(program: Program, old: str, new: str) -> Program:
    """With every reader of one value reading another, and without the call that made it."""

    def one(value: Any) -> Any:
        return V(new) if isinstance(value, V) and value == old else value

    return dataclasses.replace(
        program,
        steps=tuple(
            dataclasses.replace(step, args=mapped(step.args, one), kwargs=mapped(step.kwargs, one))
            for step in program.steps
            if step.name != old
        ),
        outputs=tuple(dict.fromkeys(str(new) if name == old else name for name in program.outputs)),
    )


def _static(program: Program, name: str) -> Program:
    """With a symbol's example in its place."""
    size = program.symbols[name]

    def dim(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [str(size) if part == name else part for part in value.split("*")]
        number = math.prod(int(part) for part in parts if part.isdigit())
        left = [part for part in parts if not part.isdigit()]
        if not left:
            return number
        return "*".join([str(number), *left] if number != 1 else left)

    inputs = tuple(
        dataclasses.replace(spec, dims=tuple(map(dim, spec.dims))) for spec in program.inputs
    )
    gone = {spec.name for spec in inputs if spec.fill == "size" and spec.dims == (size,)}
    symbols = {each: hint for each, hint in program.symbols.items() if each != name}
    made = dataclasses.replace(
        program, inputs=tuple(s for s in inputs if s.name not in gone), symbols=symbols
    )
    values: dict[str, Any] = dict.fromkeys(gone, size)
    return _folded(made, values)


def _folded(program: Program, values: dict[str, Any]) -> Program:
    """With literals in the place of sizes that are known now."""
    fakes = Fakes(program.symbols, program.may_be_zero)
    known: dict[str, Any] = {spec.name: fakes.input(spec) for spec in program.inputs}
    known.update(values)
    steps = []

    def written(value: Any) -> Any:
        return values[value] if isinstance(value, V) and value in values else value

    for step in program.steps:
        args, kwargs = mapped(step.args, written), mapped(step.kwargs, written)
        step = dataclasses.replace(step, args=args, kwargs=kwargs)
        known[step.name] = _value(fakes, step, known)
        if isinstance(known[step.name], int) and step.target != "aten._local_scalar_dense.default":
            values[step.name] = known[step.name]
        else:
            steps.append(step)
    outputs = tuple(name for name in program.outputs if name not in values)
    return dataclasses.replace(program, steps=tuple(steps), outputs=outputs)


def _value(fakes: Fakes, step: Step, known: dict[str, Any]) -> Any:
    def one(value: Any) -> Any:
        if isinstance(value, V):
            return known[value]
        if hasattr(value, "resolved"):
            return value.resolved()
        return value.values[0] if isinstance(value, PerRank) else value

    return fakes.call(resolve(step.target), mapped(step.args, one), mapped(step.kwargs, one))


def _shapes(program: Program) -> dict[str, Any]:
    """The dims and the dtype of each value that is a tensor."""
    fakes = Fakes(program.symbols, program.may_be_zero)
    known: dict[str, Any] = {spec.name: fakes.input(spec) for spec in program.inputs}
    for step in program.steps:
        known[step.name] = _value(fakes, step, known)
    return {
        name: (tuple(dim_of(size, fakes) for size in value.shape), value.dtype)
        if isinstance(value, torch.Tensor)
        else None
        for name, value in known.items()
    }


def _plainer(program: Program) -> Iterator[Program]:
    """With fewer ranks, plainer inputs, calls and config."""
    for key in program.config:
        yield dataclasses.replace(
            program, config={k: v for k, v in program.config.items() if k != key}
        )
    if program.world.size > 2:
        yield dataclasses.replace(program, world=World(2))
    for place, spec in enumerate(program.inputs):
        for change in ({"differs": ()}, {"differs": ("tp",)}, {"layout": "dense"}):
            other = dataclasses.replace(spec, **change)
            inputs = (*program.inputs[:place], other, *program.inputs[place + 1 :])
            yield dataclasses.replace(program, inputs=inputs)
    for place, step in enumerate(program.steps):
        if step.target in _SIMPLE or not reads(step):
            continue
        for other in (
            Step(step.name, "aten.relu.default", step.args[:1]),
            Step(step.name, "aten.add.Tensor", step.args[:2]),
        ):
            steps = (*program.steps[:place], other, *program.steps[place + 1 :])
            yield pruned(dataclasses.replace(program, steps=steps))
