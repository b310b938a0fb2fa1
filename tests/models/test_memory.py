"""The residual and norm stream takes less memory when it is sharded."""

from __future__ import annotations

import pytest
import torch
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.testing.models.capture import capture

RANKS = 4


def peak_bytes(graph: fx.Graph, stream_only: bool, width: int = 64) -> int:
    """The most bytes that computed values take at one time, each living until its last reader.

    Views own nothing; a value of the stream is one whose last dim is the hidden size.
    """
    views = {
        torch.ops.aten.reshape.default,
        torch.ops.aten.permute.default,
        torch.ops.aten.slice.Tensor,
        torch.ops._c10d_functional.wait_tensor.default,
    }
    order = {node: at for at, node in enumerate(graph.nodes)}
    changes = [0] * (len(order) + 1)
    for node, at in order.items():
        value = node.meta.get("val")
        if (
            node.op != "call_function"
            or node.target in views
            or not isinstance(value, torch.Tensor)
        ):
            continue
        if stream_only and (value.dim() < 2 or value.shape[-1] != width):
            continue
        owners, last = [node], at
        for owner in owners:
            for user in owner.users:
                last = max(last, order[user])
                if user.target in views:
                    owners.append(user)
        size = value.numel() * value.element_size()
        changes[at] += size
        changes[last] -= size
    peak = now = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("family", ["tp_llama", "tp_gemma2", "tp_gpt_neox"])
def test_stream_takes_less(family: str) -> None:
    graph = capture(family, length=256, tp_size=RANKS)
    before = peak_bytes(graph, stream_only=True)
    spfast.apply(graph, SequenceParallelConfig(tp_size=RANKS, tp_rank=0, recognise="both"))
    after = peak_bytes(graph, stream_only=True)
    assert after < before, f"{before} bytes before, {after} after"
