"""The interpreter: what collectives yield, on which ranks, and when nobody can go on."""

from __future__ import annotations

import pytest
import torch

from tests.pool.lockstep import CannotRun, Hang, RowsLost, run
from tests.pool.program import Input, PerRank, Program, Step, V, build, build_all
from tests.pool.world import World

JOIN = "_c10d_functional."


def of(world: World, *steps: Step, rows: int = 4) -> Program:
    return Program(
        world, (Input("x", (rows, 2), differs=world.axes),), steps, (steps[-1].name,), seed=3
    )


def outputs(program: Program) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    got = run(build_all(program), program.feeds(), program.world)
    return [feed[0] for feed in program.feeds()], [each[0] for each in got.outputs]


@pytest.mark.parametrize("how", ["sum", "avg", "max", "min", "product"])
def test_groups_of_a_mesh(how: str) -> None:
    step = Step("v", f"{JOIN}all_reduce.default", (V("x"), how, "dp"))
    x, got = outputs(of(World(2, 2), step))
    for rank, (a, b) in enumerate([(0, 2), (1, 3), (0, 2), (1, 3)]):
        both = torch.stack([x[a], x[b]])
        expected = {
            "sum": both.sum(0),
            "avg": both.mean(0),
            "max": both.amax(0),
            "min": both.amin(0),
            "product": both.prod(0),
        }[how]
        torch.testing.assert_close(got[rank], expected)


def test_what_moves_rows() -> None:
    world = World(2)
    x, got = outputs(
        of(world, Step("v", f"{JOIN}all_gather_into_tensor.default", (V("x"), 2, "tp")))
    )
    torch.testing.assert_close(got[1], torch.cat(x))
    step = Step("v", f"{JOIN}reduce_scatter_tensor.default", (V("x"), "sum", 2, "tp"))
    x, got = outputs(of(world, step))
    torch.testing.assert_close(got[1], (x[0] + x[1])[2:])
    step = Step("v", f"{JOIN}all_to_all_single.default", (V("x"), [2, 2], [2, 2], "tp"))
    x, got = outputs(of(world, step))
    torch.testing.assert_close(got[1], torch.cat([x[0][2:], x[1][2:]]))
    step = Step("v", f"{JOIN}broadcast.default", (V("x"), 1, "tp"))
    x, got = outputs(of(world, step))
    torch.testing.assert_close(got[0], x[1])
    x, got = outputs(of(world, Step("v", "vllm.all_gather.default", (V("x"), 1, 2, "tp"))))
    torch.testing.assert_close(got[0], torch.cat(x, 1))


def test_in_place_and_together() -> None:
    steps = (
        Step("c", "aten.clone.default", (V("x"),)),
        Step("r", f"{JOIN}all_reduce_coalesced_.default", ([V("c"), V("x")], "sum", "tp")),
        Step("v", "aten.add.Tensor", (V("c"), V("x"))),
    )
    x, got = outputs(of(World(2), *steps))
    torch.testing.assert_close(got[0], 2 * (x[0] + x[1]))


def test_each_rank_has_random_numbers_of_its_own() -> None:
    program = of(World(2), Step("v", "aten.rand_like.default", (V("x"),)))
    apart = run(build_all(program), program.feeds(), program.world).outputs
    same = run(build_all(program), program.feeds(), program.world, same_random=True).outputs
    assert not torch.equal(apart[0][0], apart[1][0])
    assert torch.equal(same[0][0], same[1][0])


def test_ranks_at_unlike_collectives_hang() -> None:
    first = Step("a", f"{JOIN}all_reduce.default", (V("x"), "sum", "tp"))
    second = Step("b", f"{JOIN}all_gather_into_tensor.default", (V("x"), 2, "tp"))
    one = of(World(2), first, second)
    other = of(World(2), second, first)
    with pytest.raises(Hang, match="rank 0 at a .*rank 1 at b"):
        run([build(one, 0), build(other, 1)], one.feeds(), one.world)
    alone = of(World(2), Step("c", "aten.relu.default", (V("x"),)))
    with pytest.raises(Hang, match="rank 1 at its end"):
        run([build(one, 0), build(alone, 1)], one.feeds(), one.world)


def test_what_cannot_run() -> None:
    lost = of(
        World(2),
        Step("v", f"{JOIN}reduce_scatter_tensor.default", (V("x"), "sum", 2, "tp")),
        rows=3,
    )
    with pytest.raises(RowsLost, match="3 rows over 2 ranks"):
        outputs(lost)
    said = of(World(2), Step("v", f"{JOIN}all_gather_into_tensor.default", (V("x"), 4, "tp")))
    with pytest.raises(CannotRun, match="a group of 2 ranks is said to have 4"):
        outputs(said)
    steps = (
        Step("s", "aten.slice.Tensor", (V("x"), 0, 0, PerRank((2, 3)))),
        Step("v", f"{JOIN}all_reduce.default", (V("s"), "sum", "tp")),
    )
    with pytest.raises(CannotRun, match="all_reduce"):
        outputs(of(World(2), *steps))
