"""What is drawn: many operators, valid programs, the same for a seed, and printed as it is."""

from __future__ import annotations

import random

import torch

from tests.pool.draw import Draw
from tests.pool.generate import MAKERS, generate
from tests.pool.kept import Rejected
from tests.pool.lockstep import run
from tests.pool.program import Input, Op, PerRank, Program, Step, V, build_all
from tests.pool.world import World

NAMES = {
    "Input": Input,
    "Op": Op,
    "PerRank": PerRank,
    "Program": Program,
    "Step": Step,
    "V": V,
    "World": World,
    "torch": torch,
    "device": torch.device,
}
SEEDS = range(7000, 7012)


def test_more_than_a_hundred_and_twenty_operators_are_drawn() -> None:
    called: set[str] = set()
    for seed in range(4):
        d = Draw(random.Random(seed), World(2), {}, may_be_zero=False, same_random=True)
        d.exact = seed % 2 == 0
        d.the_stream()
        for _, maker in MAKERS:
            for _ in range(40):
                try:
                    maker(d)
                except Rejected:
                    continue
                del d.pool[:-25]
        called |= {step.target for step in d.steps}
    aten = {name for name in called if name.startswith("aten.")}
    assert len(aten) >= 120, len(aten)
    joins = {name.split(".")[1] for name in called if name.startswith("_c10d_functional.")}
    assert joins >= {
        "all_reduce",
        "all_reduce_",
        "all_reduce_coalesced",
        "all_reduce_coalesced_",
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
        "all_to_all_single",
        "broadcast",
    }


def test_a_drawn_program_runs_and_prints_as_the_python_that_makes_it() -> None:
    kinds: set[str] = set()
    for seed in SEEDS:
        program = generate(seed)
        assert generate(seed) == program
        assert eval(str(program), dict(NAMES)) == program  # noqa: S307 - our own text
        run(build_all(program), program.feeds(), program.world, same_random=program.same_random)
        kinds |= {each for spec in program.inputs for each in ("far" if spec.differs else "near",)}
        kinds |= {"symbolic" if program.symbols else "static", f"{program.world.size}"}
    assert kinds >= {"far", "near", "symbolic", "static", "2", "4"}


def test_ranks_that_have_a_call_of_their_own() -> None:
    program = Program(
        World(2),
        inputs=(Input("x", (2, 3)), Input("bias", (3,))),
        steps=(
            Step("v1", "aten.add.Tensor", (V("x"), V("bias")), {}, (0,)),
            Step("v2", "aten.mul.Tensor", (V("v1"), PerRank((2, 3)))),
        ),
        outputs=("v2",),
    )
    assert program.by_rank()
    got = run(build_all(program), program.feeds(), program.world).outputs
    x, bias = program.feeds()[0]
    torch.testing.assert_close(got[0][0], (x + bias) * 2)
    torch.testing.assert_close(got[1][0], x * 3)


def test_what_differs_along_an_axis() -> None:
    spec = Input("x", (4,), differs=("tp",))
    values = [spec.value(rank, World(2, 2), {}, seed=0) for rank in range(4)]
    assert torch.equal(values[0], values[2]) and torch.equal(values[1], values[3])
    assert not torch.equal(values[0], values[1])


def test_layouts() -> None:
    for layout, strides in (("transposed", (1, 3)), ("padded", (6, 1)), ("offset", (6, 1))):
        tensor = Input("x", (3, 4), layout=layout).allocate({})
        assert tuple(tensor.shape) == (3, 4)
        assert tensor.stride() == strides
        assert tensor.storage_offset() == (layout == "offset")
