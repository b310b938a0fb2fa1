"""spfast itself, behind the same interface as its peers."""

from __future__ import annotations

import torch.fx as fx

from .peer import Peer, Rewrite, Setting


def prepare(setting: Setting) -> Rewrite:
    """The pass as a user calls it, with size and rank given (no process group exists here)."""
    import spfast

    config = spfast.SequenceParallelConfig(
        tp_size=setting.tp_size, tp_rank=setting.tp_rank, divisibility="assume"
    )

    def rewrite(graph: fx.Graph) -> int:
        return spfast.apply(graph, config).matched_count

    return rewrite


PEER = Peer("spfast", prepare)
