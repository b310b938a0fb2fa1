"""Matrix products that hide the collectives beside them: one operator in place of two.

``mm -> reduce_scatter`` and ``all_gather -> mm`` become the fused operators of torch's symmetric
memory. These work in chunks: they compute one while they communicate another. Sequence parallelism
leaves such pairs in a graph.
"""

from spfast.async_tp.fuse import fuse_pairs, has_collectives
from spfast.async_tp.symmetric import enable_async_tp, enabled_groups
from spfast.pairs import AsyncTP, FusedPair, LeftPair

__all__ = [
    "AsyncTP",
    "FusedPair",
    "LeftPair",
    "enable_async_tp",
    "enabled_groups",
    "fuse_pairs",
    "has_collectives",
]
