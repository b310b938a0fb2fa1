"""The passes: one alone, both in one, in torch.compile, and what goes into cache keys."""

from __future__ import annotations

import logging
import pickle
from types import SimpleNamespace

import pytest
from async_tp.forms import RANKS, build, gathered, several_readers
from async_tp.test_forms import CONFIG
from torch import fx

import spfast
from spfast.async_tp import symmetric
from spfast.errors import VerificationError
from spfast.testing import async_tp_stand_in


def test_it_fuses_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    graph = build(several_readers).graph
    fusing = spfast.AsyncTPPass(CONFIG)
    assert fusing.matched_count == 0 and fusing.result is None
    with async_tp_stand_in(), caplog.at_level(logging.INFO, logger="spfast"):
        fusing(graph)
    assert fusing.matched_count == 1 and fusing.pairs.fused[0].products == (
        "mm_default",
        "mm_default_1",
        "mm_default_2",
    )
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith("async TP: 1 of 1 pairs fused, ")
    assert repr(fusing).endswith("latest: 1 of 1 pairs fused>")
    again = pickle.loads(pickle.dumps(fusing))
    assert again.config == CONFIG and again.matched_count == 0 and again.uuid() == fusing.uuid()


def test_a_cache_key_tells_enabled_groups_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    fusing = spfast.AsyncTPPass(CONFIG)
    before = fusing.uuid()
    assert before.startswith("spfast.async_tp.")
    monkeypatch.setattr(symmetric, "_enabled", {"0"})
    assert fusing.uuid() != before
    both = spfast.SequenceParallelismPass(CONFIG)
    here = both.uuid()
    monkeypatch.setattr(symmetric, "_enabled", set())
    assert both.uuid() != here


def test_ranges_are_refused_where_the_host_splits() -> None:
    fusing = spfast.AsyncTPPass(spfast.SequenceParallelConfig(tp_size=8, splitting_ops=("a",)))
    assert not fusing.is_applicable_for_range(spfast.Range(1, 8))
    assert fusing.is_applicable_for_range(spfast.Range(8, 8))
    assert not fusing.is_applicable_for_range(spfast.Range(7, 7))


def test_what_cannot_be_proved_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from spfast.verifier import proof

    graph = build(gathered).graph
    before = graph.python_code("self").src
    problem = SimpleNamespace(
        raise_if_failed=lambda: (_ for _ in ()).throw(VerificationError("no"))
    )
    monkeypatch.setattr(proof, "verify", lambda *given: problem)
    monkeypatch.setattr("spfast.verifier.verify", lambda *given: problem)
    import dataclasses

    with async_tp_stand_in(), pytest.raises(VerificationError):
        spfast.AsyncTPPass(dataclasses.replace(CONFIG, validate=True))(graph)
    assert graph.python_code("self").src == before
    graph.lint()


def test_both_in_one() -> None:
    from spfast.testing.models.capture import capture, fake_process_group

    with fake_process_group(4):
        graph = capture("tp_llama", length=64, layers=2, tp_size=4)
        config = spfast.SequenceParallelConfig(
            tp_size=4, tp_rank=0, async_tp_thresholds=(), validate=True
        )
        with async_tp_stand_in():
            result = spfast.apply(graph, config, async_tp=True)
    assert int(result) == 5 and result.async_tp is not None
    assert int(result.async_tp) == 8
    assert [pair.reason for pair in result.async_tp.left] == [
        "what it sums is no matrix product",  # the embedding
        "no matrix product reads what it gathers",  # the last gather
    ]
    assert result.to_dict()["async_tp"]["fused"][0]["operator"].startswith("fused_")
    assert pickle.loads(pickle.dumps(result)) == result


def test_without_being_asked_nothing_is_fused() -> None:
    graph = build(gathered).graph
    with async_tp_stand_in():
        result = spfast.apply(graph, spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0))
    assert result.async_tp is None and "symm_mem" not in str(graph)


def test_a_called_graph_is_fused_and_recompiled() -> None:
    inner = fx.GraphModule({}, build(gathered).graph)
    outer = fx.Graph()
    x, w = outer.placeholder("x"), outer.placeholder("w")
    outer.output(outer.call_module("inner", (x, w)))
    module = fx.GraphModule({"inner": inner}, outer)
    with async_tp_stand_in():
        result = spfast.apply(module, CONFIG)
    assert result.async_tp is not None
    assert result.async_tp.fused[0].collective == "inner.all_gather_into_tensor_default"
    assert "fused_all_gather_matmul" in module.inner.code
