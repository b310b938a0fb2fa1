"""The benchmark of a step on the CPU: all that needs no GPU of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.step.cases import Case
from bench.gpu.step.contenders import CONTENDERS
from bench.gpu.step.exposed import covered
from bench.gpu.step.measure import _of_slowest, measure
from bench.gpu.step.models import exact_result, make_step
from bench.gpu.step.table import draw, markdown
from spfast.testing.gloo import run_ranks
from spfast.testing.models.capture import fake_process_group
from spfast.testing.models.dtensor import Sizes
from tests.training.steps import backend_of

LONG = bool(os.environ.get("SPFAST_LONG"))
COMPARED = ("sequence parallel by hand", "spfast")
NAMES = ("plain", *COMPARED, "limit: no collectives")


def of_mesh(mesh: Any, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    case = Case("tiny", Sizes(), tokens=16, dtype="float32", device="cpu", iterations=1)
    chosen = [each for each in CONTENDERS if each.name in names]
    return measure(case, mesh, chosen, backend_of)


def of_rank(rank: int, world_size: int) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh

    return of_mesh(init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",)))


def slowest(rank: int, world_size: int) -> list[float]:
    return _of_slowest([1.0 + rank, 5.0 - rank, 3.0], "cpu")


def test_a_step_takes_as_long_as_on_the_slowest_rank() -> None:
    assert run_ranks(slowest, 2) == [[2.0, 5.0, 3.0]] * 2


@pytest.mark.skipif(not LONG, reason="compiles four steps on two ranks: SPFAST_LONG=1")
def test_contenders_compute_the_same() -> None:
    for found in run_ranks(of_rank, 2, timeout=900):
        rows = {row["name"]: row for row in found["contenders"]}
        for name in COMPARED:
            assert rows[name]["difference"] < 1e-6, rows[name]
        assert rows["plain"]["collectives"] == {"all_reduce": 7}
        assert rows["limit: no collectives"]["collectives"] == {}


def test_the_pass_moves_as_little_as_the_plan_by_hand(tmp_path: Path) -> None:
    with fake_process_group(2) as mesh:  # nobody is waited for, and the values are wrong
        found = of_mesh(mesh, COMPARED)
    rows = {row["name"]: row for row in found["contenders"]}
    assert [*rows] == [*COMPARED] and not any("error" in row for row in rows.values()), rows
    by_hand = rows["sequence parallel by hand"]
    assert by_hand["collectives"] == {"all_gather_into_tensor": 4, "reduce_scatter_tensor": 4}
    assert rows["spfast"]["collectives"] == by_hand["collectives"]
    assert rows["spfast"]["pass_ms"] > 0

    where = {"device": "CPU", "ranks": 2, "torch": "2", "when": "now"}
    record = {"where": where, "cases": [found]}
    written = json.dumps(record)  # which may have a nan, and that is no equal of itself
    assert json.dumps(json.loads(written)) == written
    table = markdown(record).splitlines()
    (line,) = [line for line in table if line.startswith("| spfast |")]
    assert line.endswith("| 4 all_gather_into_tensor, 4 reduce_scatter_tensor |")
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    failed = {"name": "broken", "error": "RuntimeError: no"}
    again = markdown({"where": where, "cases": [{**found, "contenders": [failed]}]})
    assert "| broken | failed: RuntimeError: no |" in again
    pytest.importorskip("matplotlib")
    draw(record, tmp_path / "step.png")
    assert (tmp_path / "step.png").stat().st_size > 0


@pytest.mark.parametrize("step", ["prefill", "float8"])
def test_a_forward_moves_rows_and_is_exact(step: str) -> None:
    if step == "prefill" and torch.__version__ < "2.13":
        pytest.skip("sharding over a group that sends nothing leaves this torch's weights unset")
    sizes = Sizes(64, 128, 4, 4, layers=2)
    case = Case("tiny", sizes, step, tokens=64, dtype="bfloat16", device="cpu", iterations=1)
    with fake_process_group(1) as mesh:  # alone, a rank is right without the others
        exact = exact_result(case, mesh)
        made = make_step(case, mesh, by_hand=False, backend="eager")
        made()
        found = made.result()
    assert exact is not None and found.shape == exact.shape
    far = ((found - exact).norm() / exact.norm()).item()
    assert 0 < far < (0.02 if step == "prefill" else 0.2)


def test_time_in_which_nothing_is_computed() -> None:
    assert covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == 4.0
    assert covered([(0.0, 9.0), (1.0, 3.0)]) == 9.0 and covered([]) == 0.0
