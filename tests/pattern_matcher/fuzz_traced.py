"""Random functions for register_replacement, and graphs with instances and lookalikes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx as fx
from pattern_matcher.graphs import BF16, F32, Inputs, trace

from spfast.pattern_matcher.trace import TAKES_DECOMPOSITIONS

aten, prims = torch.ops.aten, torch.ops.prims


@dataclass(frozen=True)
class Step:
    """One line of a random function: an op, which earlier values it takes, its literal."""

    op: str
    takes: tuple[int, ...]
    literal: float | int


# op -> (number of values it takes, literals to choose from, what it does); shapes are kept
OPS: dict[str, tuple[int, tuple[Any, ...], Callable[..., Any]]] = {
    "relu": (1, (0,), lambda x, n: aten.relu(x)),
    "neg": (1, (0,), lambda x, n: aten.neg(x)),
    "add": (2, (1, 2, 3), lambda x, y, n: aten.add(x, y, alpha=n) if n > 1 else aten.add(x, y)),
    "mul": (2, (0,), lambda x, y, n: aten.mul(x, y)),
    "scale": (1, (2.0, 0.5, 3), lambda x, n: aten.mul(x, n)),
    "shift": (1, (1, 1.0, 2), lambda x, n: aten.add(x, n)),
    "clamp": (1, (1, 2.5), lambda x, n: aten.clamp(x, None, n)),
    "flatten": (1, (0,), lambda x, n: aten.neg(x.reshape(-1)).view(x.shape)),
    "rows": (1, (0, 1, -1), lambda x, n: aten.mul(x, aten.sum(x, [n], True))),
    "cast": (1, (BF16, torch.float16), lambda x, n: prims.convert_element_type(
        prims.convert_element_type(x, n), F32)),
    "swap": (1, (0,), lambda x, n: aten.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1)),
    "halves": (1, (2, 4), lambda x, n: aten.cat(list(aten.split(x, n, 1))[::-1], 1)),
    "size": (1, (0, 1), lambda x, n: aten.mul(x, x.shape[n])),
    "sorted": (1, (0, 1), lambda x, n: aten.sort(x, n)[0]),
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """A random function of some tensors.

    Attributes:
        inputs: how many.
        steps: its lines; values are numbered, inputs first.
        outputs: which values it returns.
    """

    inputs: int
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def __call__(self, *args: Any) -> Any:
        values = list(args)
        for step in self.steps:
            values.append(OPS[step.op][2](*(values[i] for i in step.takes), step.literal))
        found = [values[i] for i in self.outputs]
        return found[0] if len(found) == 1 else tuple(found)

    def function(self, name: str) -> Callable[..., Any]:
        """It with named parameters, as register_replacement wants it."""
        if self.inputs == 1:
            fn: Callable[..., Any] = lambda a: self(a)  # noqa: E731
        elif self.inputs == 2:
            fn = lambda a, b: self(a, b)  # noqa: E731
        else:
            fn = lambda a, b, c: self(a, b, c)  # noqa: E731
        fn.__name__ = name
        return fn


def draw(rng: random.Random, inputs: int, size: int, outputs: int) -> Program:
    """A function in which every input and every value is used."""
    steps: list[Step] = []
    unused = list(range(inputs))
    rng.shuffle(unused)
    total = inputs
    while len(steps) < size or len(unused) > outputs:
        many = len(unused) > 1 and (len(steps) >= size or rng.random() < 0.5)
        op = rng.choice([name for name, spec in OPS.items() if spec[0] == (2 if many else 1)])
        takes = [unused.pop()]
        if many:
            takes.append(unused.pop() if rng.random() < 0.8 else rng.randrange(total))
            rng.shuffle(takes)
        elif rng.random() < 0.15:
            op, takes = "mul", [takes[0], rng.randrange(total)]
        steps.append(Step(op, tuple(takes), rng.choice(OPS[op][1])))
        unused.append(total)
        rng.shuffle(unused)
        total += 1
    while len(unused) < outputs:
        unused.append(rng.randrange(inputs, total))
    return Program(inputs, tuple(steps), tuple(dict.fromkeys(unused)))


def disturb(rng: random.Random, program: Program) -> Program:
    """A lookalike: another literal, another op, or operands the other way round."""
    at = rng.randrange(len(program.steps))
    step = program.steps[at]
    kind = rng.random()
    if kind < 0.5:
        step = replace(step, literal=rng.choice(OPS[step.op][1]))
    elif kind < 0.75:
        same = [name for name, spec in OPS.items() if spec[0] == len(step.takes)]
        op = rng.choice(same)
        step = Step(op, step.takes, rng.choice(OPS[op][1]))
    else:
        step = replace(step, takes=step.takes[::-1])
    return replace(program, steps=(*program.steps[:at], step, *program.steps[at + 1 :]))


def random_replacement(seed: int) -> tuple[Callable[[Any, Any], Any], Callable[[], fx.GraphModule]]:
    """A pass with one or two replacements, and the graph to apply it to."""
    rng = random.Random(seed)
    rules = []
    for _ in range(rng.randint(1, 2)):
        inputs, outputs = rng.randint(1, 3), rng.choice((1, 1, 2))
        search = draw(rng, inputs, rng.randint(2, 4), outputs)
        made = draw(rng, inputs, rng.randint(1, 3), len(search.outputs))
        if len(made.outputs) == len(search.outputs):
            rules.append((search, made))
    plain, checked = rng.random() < 0.8, rng.random() < 0.3

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("fuzz")
        for search, made in rules:
            options: dict[str, Any] = (
                {"get_decomp_fn": dict} if plain and TAKES_DECOMPOSITIONS else {}
            )
            if checked:
                options["extra_check"] = lambda match: spy.match(match) is None
            with Inputs().mode:
                examples = [torch.empty(6, 12) for _ in range(search.inputs)]
                pm.register_replacement(
                    search.function("search"),
                    made.function("replace"),
                    examples,
                    pm.fwd_only,
                    matcher,
                    skip_duplicates=True,
                    **options,
                )
        return matcher

    blocks: list[Program] = []
    for _ in range(rng.randint(2, 4)):
        search = rng.choice(rules)[0] if rules else draw(rng, 1, 2, 1)
        blocks.append(search if rng.random() < 0.65 else disturb(rng, search))
    wires = [[rng.random() for _ in range(block.inputs)] for block in blocks]
    dynamic = rng.choice((None, "rows", "both"))

    def model(*tensors: Any) -> Any:
        values: list[Any] = [t for t in tensors if isinstance(t, torch.Tensor)]
        for block, wire in zip(blocks, wires, strict=True):
            out = block(*(values[-1 - int(w * min(3, len(values)))] for w in wire))
            values.extend(out if isinstance(out, Sequence) else [out])
            if not isinstance(out, Sequence):
                values.append(aten.cos(out))
        return values[-1], values[-2]

    def build() -> fx.GraphModule:
        make = Inputs(**({"s": 10} if dynamic else {}), **({"t": 12} if dynamic == "both" else {}))
        shape = ("s" if dynamic else 10, "t" if dynamic == "both" else 12)
        gm = trace(model, *make.sizes.values(), make.tensor(*shape), make.tensor(*shape))
        gm.graph.eliminate_dead_code()
        return gm

    return define, build
