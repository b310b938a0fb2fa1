"""Inductor's own async-TP pass finds matrix products beside the collectives that the pass leaves.

Nothing is run: the process group is fake, and what is fused is counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.testing.models.capture import capture, fake_process_group

micro_pipeline = pytest.importorskip("torch._inductor.fx_passes.micro_pipeline_tp")
RANKS, LAYERS = 4, 2


def fused(graph: fx.Graph, group: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many GEMM + reduce_scatter and all_gather + GEMM pairs are made one operator."""
    symmetric = pytest.importorskip("torch.distributed._symmetric_memory")
    # The fused operators are NCCL's; a torch for the CPU declares them all the same.
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(symmetric, "is_symm_mem_enabled_for_group", lambda name: name == group)
    micro_pipeline.micro_pipeline_tp_pass(graph)
    graph.lint()
    names = [str(node.target) for node in graph.nodes]
    return (
        sum("fused_matmul_reduce_scatter" in name for name in names),
        sum("fused_all_gather_matmul" in name for name in names),
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("recognise", ["patterns", "both"])
@pytest.mark.parametrize("family", ["tp_llama", "tp_flat"])
def test_every_projection_of_llama_is_fused(
    family: str, recognise: Any, dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_process_group(RANKS) as mesh:
        group = mesh.get_group().group_name
        graph = capture(family, length=64, dynamic=dynamic, layers=LAYERS, tp_size=RANKS)
        assert fused(graph, group, monkeypatch) == (0, 0), "there is nothing to fuse yet"
        config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=0, recognise=recognise)
        assert int(spfast.apply(graph, config)) == 2 * LAYERS + 1
        # Attention and MLP of each layer end in one, and begin with the other. The embedding is
        # no matrix product, and what the last norm yields is returned.
        assert fused(graph, group, monkeypatch) == (2 * LAYERS, 2 * LAYERS)
