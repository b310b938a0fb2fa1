"""Draws whole programs: a mesh, the shape of a token, pieces of models, operators on values."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from tests.pool import backward, elementwise, joins, shapes
from tests.pool.draw import Draw
from tests.pool.elementwise import Maker
from tests.pool.kept import Rejected
from tests.pool.lockstep import is_collective
from tests.pool.program import Dim, Program, Step, V, reads, resolve
from tests.pool.world import World

MAKERS: tuple[tuple[float, Maker], ...] = (
    *elementwise.MAKERS,
    *shapes.MAKERS,
    *joins.MAKERS,
    *backward.MAKERS,
)


def generate(seed: int) -> Program:
    """The program of a seed; always the same, on every machine with one version of torch."""
    return drawn(seed)[0]


def drawn(seed: int) -> tuple[Program, dict[str, Any] | None]:
    """The program of a seed, and the fake values of its calls, which need not be made again."""
    chooser = random.Random(seed)
    world = chooser.choice([World(2), World(2), World(4), World(2, 2)])
    rows, symbols, may_be_zero = _rows(chooser, world)
    same_random = chooser.random() < 0.5
    d = Draw(chooser, world, symbols, may_be_zero, same_random)
    d.seed = seed
    d.rows, d.hidden = rows, chooser.choice([4, 4, 8, 6, 5])
    d.exact = chooser.random() < 0.75
    if not d.exact and chooser.random() < 0.4:
        d.dialect = "vllm"
    evident = chooser.random() < 0.5
    d.far = chooser.choice([0.0, 0.15, 0.4])
    if symbols and d.chance(0.6):
        for name in symbols:
            d.input([name], differs=(), layout="dense", fill="size")
    d.the_stream()
    wanted = chooser.choice([3, 5, 8, 12])
    weights = [weight for weight, _ in MAKERS]
    makers = [maker for _, maker in MAKERS]
    sites = chooser.choice([0, 1, 1, 2, 2, 3])
    plan = [joins.site] * sites + chooser.choices(makers, weights, k=wanted)
    first, rest = plan[:1], plan[1:]
    chooser.shuffle(rest)
    for maker in first + rest:
        try:
            maker(d)
        except Rejected:
            continue
    outputs = _outputs(d)
    if evident:
        outputs += _evidence(d)
    program = Program(
        world=world,
        inputs=tuple(d.inputs),
        steps=tuple(d.steps),
        outputs=tuple(outputs),
        symbols=symbols,
        may_be_zero=may_be_zero,
        config=_config(chooser, world),
        same_random=same_random,
        evident=evident,
        seed=seed,
    )
    return pruned(program), d.values()


def _rows(chooser: random.Random, world: World) -> tuple[tuple[Dim, ...], dict[str, int], bool]:
    """The dims of a token, the symbols with their examples, and whether these may be 0 or 1."""
    tp = world.tp
    tokens = chooser.choice([2 * tp, 2 * tp, 2 * tp, 3 * tp, tp, tp + 1, 1, 0])
    batch = chooser.choice([1, 2, 2, 3, tp])
    form = chooser.choice(["2d"] * 5 + ["3d"] * 3 + ["s", "s", "bs", "b s", "1 s", "s*t"])
    may_be_zero = chooser.random() < 0.25
    long = chooser.choice([4 * tp, 3 * tp, 2 * tp + 1, 2 * tp])
    if form == "2d":
        return (tokens,), {}, False
    if form == "3d":
        return (batch, tokens), {}, False
    if form == "s":
        return ("s0",), {"s0": long}, may_be_zero
    if form == "1 s":
        return (chooser.choice([1, 2]), "s0"), {"s0": long}, may_be_zero
    # Examples that differ from each other and from the features: nothing is equal by chance.
    short = chooser.choice([3, tp * 2 + 3, 2])
    if form == "bs":
        return ("b", "s"), {"b": short, "s": long}, may_be_zero
    if form == "b s":
        return ("b*s",), {"b": short, "s": long}, may_be_zero
    return ("s0*s1",), {"s0": long, "s1": short}, may_be_zero


def _config(chooser: random.Random, world: World) -> dict[str, Any]:
    config: dict[str, Any] = {
        "recognise": chooser.choice(["both", "both", "patterns", "rowwise"]),
        "divisibility": chooser.choice(["guard", "guard", "prove", "assume", "pad"]),
        "replicated": chooser.choice(["infer", "infer", "infer", "prove", "names"]),
    }
    # Drawn values are small: beside the default cost of a collective nothing would be worth a cut.
    if chooser.random() < 0.8:
        config["collective_cost"] = 0
    if world.dp > 1:
        config["groups"] = chooser.choice(["tp", "tp", "tp", "given", "none"])
    return config


def _outputs(d: Draw) -> list[str]:
    read = {name for step in d.steps for name in reads(step)}
    ends = [name for name in d.pool if name not in read and name not in _inputs(d)]
    inner = [name for name in d.pool if name in read and name not in _inputs(d)]
    d.random.shuffle(ends)
    d.random.shuffle(inner)
    chosen = ends[: d.choose([1, 3, 6, 12])] + inner[: d.choose([0, 0, 1, 2])]
    if not chosen:
        chosen = [d.the_stream()]
    if d.stream is not None and d.chance(0.4) and d.stream not in chosen:
        chosen.append(d.stream)
    return chosen


def _inputs(d: Draw) -> set[str]:
    return {spec.name for spec in d.inputs}


def _evidence(d: Draw) -> list[str]:
    """Sums of each input that a rank has for itself: no reader can take it for shared."""
    found: list[str] = []
    for spec in list(d.inputs):
        if not spec.differs or spec.fill == "mask" or spec.fill.startswith("index"):
            continue
        group = "tp" if "tp" in spec.differs else "dp"
        try:
            shown = d.call("aten.relu.default", V(spec.name))
            found.append(joins.reduced(d, shown, group, "sum"))
        except Rejected:
            continue
    return found


def pruned(program: Program) -> Program:
    """The program without what nothing reads; writes in place stay."""
    needed = set(program.outputs)
    kept: list[Step] = []
    for step in reversed(program.steps):
        if step.name in needed or (_lasts(step) and not _is_dead_join(step)):
            kept.append(step)
            needed.update(reads(step))
    used = tuple(spec for spec in program.inputs if spec.name in needed)
    symbols = {
        name: hint
        for name, hint in program.symbols.items()
        if any(name in str(dim).split("*") for spec in used for dim in spec.dims)
    }
    return dataclasses.replace(program, inputs=used, steps=tuple(reversed(kept)), symbols=symbols)


def _lasts(step: Step) -> bool:
    schema = getattr(resolve(step.target), "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _is_dead_join(step: Step) -> bool:
    return is_collective(resolve(step.target)) and not _lasts(step)
