"""Real processes: results by rank, tracebacks, time limits; and lockstep says what gloo says."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from spfast.testing import ops
from spfast.testing.gloo import RankError, run_ranks
from spfast.testing.graphs import GraphOptions, seeded_case
from spfast.testing.lockstep import assert_same, run_lockstep

SEEDS = range(6)
OPTIONS = GraphOptions(world_sizes=(2,), dtypes=(torch.float32,), fp8=0.0)


def _run_cases(rank: int, world_size: int) -> list[object]:
    """Each seeded graph by ``fx.Interpreter``, so that the collectives really go through gloo."""
    ops.declare()
    outputs = []
    for name in ("tp:0", "other:0"):
        ops.register_group(name, dist.group.WORLD)
    for seed in SEEDS:
        case = seeded_case(seed, OPTIONS)
        graph = case.graph
        for node in graph.nodes:
            # The functional collectives know the default group as "0" alone.
            if str(node.target).startswith("_c10d_functional"):
                node.args = tuple("0" if arg == "other:0" else arg for arg in node.args)
        module = torch.fx.GraphModule(torch.nn.Module(), graph)
        outputs.append(torch.fx.Interpreter(module).run(*case.inputs()[rank]))
    return outputs


def _fail_on_one(rank: int, world_size: int) -> int:
    if rank == 1:
        raise KeyError("a word that the report must carry")
    dist.barrier()
    return rank


def _sleep(rank: int, world_size: int) -> None:
    time.sleep(600)


_KEPT: list[object] = []


def _lock(rank: int, world_size: int) -> str:
    lock = multiprocessing.get_context("spawn").Lock()
    _KEPT.append(lock)
    return str(lock._semlock.name)  # type: ignore[attr-defined]


def _variable(rank: int, world_size: int) -> str | None:
    return os.environ.get("A_VARIABLE")


def _parent(rank: int, world_size: int) -> int:
    return os.getppid()


def _hash(rank: int, world_size: int) -> int:
    return hash("a string")


def test_lockstep_agrees_with_gloo() -> None:
    by_rank = run_ranks(_run_cases, 2)
    for seed in SEEDS:
        case = seeded_case(seed, OPTIONS)
        expected = run_lockstep([case.graph] * 2, case.inputs(), case.groups)
        for rank in range(2):
            # Two addends commute: gloo and the interpreter give the same bits.
            assert_same(by_rank[rank][seed], expected[rank], 0.0, f"seed {seed}, rank {rank}")


def test_the_traceback_of_a_failing_rank_is_reported() -> None:
    with pytest.raises(RankError, match="rank 1:(.|\n)*a word that the report must carry"):
        run_ranks(_fail_on_one, 2)


def test_a_rank_that_does_not_end_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(RankError, match=r"ranks \[0, 1\] did not end in time"):
        run_ranks(_sleep, 2, timeout=3)
    assert time.monotonic() - started < 60


def test_a_rank_gives_its_locks_back() -> None:
    names = run_ranks(_lock, 2)
    assert len({*names}) == 2
    assert not [name for name in names if Path(f"/dev/shm/sem.{name.strip('/')}").exists()]


def test_ranks_have_the_variables_of_their_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_VARIABLE", "one")
    assert run_ranks(_variable, 1) == ["one"]
    assert run_ranks(_variable, 1, environment={"A_VARIABLE": "another"}) == ["another"]
    monkeypatch.delenv("A_VARIABLE")
    assert run_ranks(_variable, 1) == [None]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="ranks are spawned beside a device")
def test_a_rank_is_forked_from_a_process_of_its_own_that_has_torch() -> None:
    parents = run_ranks(_parent, 2)
    assert len({*parents, os.getpid()}) == 3
    assert run_ranks(_parent, 1) == parents[:1]


def test_ranks_hash_strings_differently() -> None:
    assert len({*run_ranks(_hash, 2)}) == (1 if os.environ.get("PYTHONHASHSEED") else 2)


def test_beside_a_device_ranks_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert run_ranks(_parent, 1) == [os.getpid()]


def test_no_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="world_size is 0"):
        run_ranks(_sleep, 0)
