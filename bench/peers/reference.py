"""spfast.reference: the same matching and planning in plain Python, written for clarity."""

from __future__ import annotations

import torch.fx as fx

from .peer import Peer, Rewrite, Setting


def prepare(setting: Setting) -> Rewrite:
    """The reference pass with the same config as spfast's."""
    import spfast
    from spfast import reference

    config = spfast.SequenceParallelConfig(
        tp_size=setting.tp_size, tp_rank=setting.tp_rank, divisibility="assume"
    )

    def rewrite(graph: fx.Graph) -> int:
        return int(reference.apply(graph, config))

    return rewrite


def supports(_: Setting) -> str:
    """Why the reference cannot run here, if so."""
    try:
        from spfast import reference
    except ImportError as error:
        return f"not available: {error}"
    return "" if hasattr(reference, "apply") else "spfast.reference has no apply"


PEER = Peer("python reference", prepare, supports)
