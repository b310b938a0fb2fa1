"""As many pairs as Inductor's own pass fuses in the same graph, and more where its patterns end."""

from __future__ import annotations

import copy

import pytest
import torch
from async_tp.forms import FORMS, build
from async_tp.test_forms import fuse
from torch import fx

import spfast
from spfast.testing import async_tp_stand_in
from spfast.testing.models.capture import capture, fake_process_group

micro_pipeline = pytest.importorskip("torch._inductor.fx_passes.micro_pipeline_tp")
RANKS, LAYERS = 4, 2


def theirs(graph: fx.Graph, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many pairs Inductor's pass fuses; nothing is run."""
    symmetric = pytest.importorskip("torch.distributed._symmetric_memory")
    # The fused operators are NCCL's; a torch for the CPU declares them all the same.
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(symmetric, "is_symm_mem_enabled_for_group", lambda name: True)
    micro_pipeline.micro_pipeline_tp_pass(graph)
    return sum("symm_mem" in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("family", ["tp_llama", "tp_flat"])
def test_models(family: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_process_group(RANKS):
        graph = capture(family, length=64, dynamic=dynamic, layers=LAYERS, tp_size=RANKS)
        config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0, async_tp_thresholds=())
        spfast.apply(graph, config)
        same = copy.deepcopy(graph)
        with async_tp_stand_in():
            ours = spfast.apply(graph, config, async_tp=True).async_tp
        assert ours is not None and len(ours.fused) == 4 * LAYERS
        assert len(ours.fused) >= theirs(same, monkeypatch)


def test_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph a form: all are fused here, and some there."""
    mine = other = 0
    for body, count in FORMS.items():
        graph = build(body).graph
        same = copy.deepcopy(graph)
        mine += len(fuse(graph).fused)
        with fake_process_group(2):
            try:
                found = theirs(same, monkeypatch)
            except Exception:  # a form that it trips over
                found = 0
        assert found <= count, body
        other += found
    assert mine == sum(FORMS.values()) and other < mine
