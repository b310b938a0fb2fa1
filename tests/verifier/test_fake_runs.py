"""Shape rules run once for equal shapes, and what a rule cannot say is asked again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from support.goldens import load_golden
from torch.utils._python_dispatch import TorchDispatchMode

import spfast
from spfast.testing import copy_graph
from spfast.verifier import fake_runs, metadata
from spfast.verifier.fake_runs import FakeRuns

aten = torch.ops.aten
CONFIG = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, divisibility="assume")
ROWS = ((8, 4), (4, 1), torch.float32, torch.device("cpu"))


class Calls(TorchDispatchMode):
    """Counts operators that run on tensors, fake ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", ["bf16_static_2layer", "bf16_dynamic_2layer"])
def test_a_second_proof_runs_no_operator(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "_RUNS", FakeRuns())
    before = load_golden(case).before
    after = copy_graph(before)
    spfast.apply(after, CONFIG)
    counts = []
    for _ in range(2):
        with Calls() as calls:
            spfast.verify(before, after, CONFIG)
        counts.append(calls.count)
    assert counts[0] > 0
    assert counts[1] == 0


def relu(runs: FakeRuns, described: Any = ROWS) -> Any:
    return runs.run((aten.relu.default, described), aten.relu.default, [runs.tensor(described)], {})


def test_a_result_is_kept_under_its_key() -> None:
    runs = FakeRuns()
    assert runs.kept((aten.relu.default, ROWS)) is None
    result = relu(runs)
    assert runs.kept((aten.relu.default, ROWS)) is result
    assert result.shape == (8, 4)
    assert result.device.type == "cpu"


def test_the_default_dtype_belongs_to_the_key() -> None:
    runs = FakeRuns()
    key = (aten.ones.default, (2,))
    assert runs.run(key, aten.ones.default, [(2,)], {}).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert runs.kept(key) is None
        assert runs.run(key, aten.ones.default, [(2,)], {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_failure_is_not_kept() -> None:
    runs = FakeRuns()
    key = (aten.mm.default, ROWS, ROWS)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            runs.run(key, aten.mm.default, [runs.tensor(ROWS), runs.tensor(ROWS)], {})
        assert runs.kept(key) is None


def test_only_operators_with_plain_arguments_are_kept() -> None:
    runs = FakeRuns()
    for target, extra in ((torch.relu, ()), (aten.relu.default, (object(),))):
        key = (target, ROWS, *extra)
        runs.run(key, target, [runs.tensor(ROWS)], {})
        assert runs.kept(key) is None


def test_results_are_forgotten_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_runs, "_AT_MOST", 3)
    runs = FakeRuns()
    shapes = [((rows, 4), *ROWS[1:]) for rows in range(1, 5)]
    for described in shapes:
        relu(runs, described)
    kept = [runs.kept((aten.relu.default, described)) is not None for described in shapes]
    assert kept == [False, False, False, True]


def test_threads_have_results_of_their_own() -> None:
    runs = FakeRuns()
    relu(runs)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(runs.kept((aten.relu.default, ROWS))))
    thread.start()
    thread.join()
    assert seen == [None]
