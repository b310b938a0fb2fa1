"""A graph captured at one number of tokens is right at others: no size is baked in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.testing.equivalence import copy_graph
from spfast.testing.lockstep import run_lockstep
from spfast.testing.models.capture import capture

RANKS, CAPTURED = 4, 4096


def inputs_for(graph: fx.Graph, length: int) -> list[Any]:
    """Random values of every input, with so many tokens."""
    generator = torch.Generator().manual_seed(length)
    made: list[Any] = []
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            made.append(length)
            continue
        sizes = [size if isinstance(size, int) else length for size in value.shape]
        if value.dtype.is_floating_point:
            drawn = torch.randn(sizes, generator=generator) * 0.3
        else:
            drawn = torch.randint(0, 64, sizes, generator=generator)
        made.append(drawn.to(value.dtype))
    return made


@pytest.mark.parametrize("family", ["tp_llama", "tp_gemma2", "tp_gpt_neox", "tp_fp8_token"])
def test_other_sizes(family: str) -> None:
    original = capture(family, length=CAPTURED, dynamic=True, layers=1, dtype=torch.float32)
    graphs = [copy_graph(original) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = spfast.SequenceParallelConfig(tp_size=RANKS, tp_rank=rank)
        result = spfast.apply(graph, config)
        assert int(result) > 0 and not result.skipped
    for length in (512, 4104):
        inputs = [inputs_for(original, length)] * RANKS
        before = run_lockstep([original] * RANKS, inputs)
        after = run_lockstep(graphs, inputs)
        for expected, got in zip(before, after, strict=True):
            assert got[0].shape[-2] == length
            torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
