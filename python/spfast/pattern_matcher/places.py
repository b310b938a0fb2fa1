"""Where a node runs, as its annotations say: the stream, and the memory pool."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock

__all__ = ["PLACES", "TAGS", "TRACKS_MEMPOOLS", "common_place", "place_of"]

# Before torch 2.14 a replacement does not inherit its place, and torch does not look at pools.
_common_context: Any = getattr(stock, "_common_custom_context", None)
TRACKS_MEMPOOLS = _common_context is not None


def _mentions(code: CodeType, text: str) -> bool:
    return any(
        _mentions(constant, text) if isinstance(constant, CodeType) else constant == text
        for constant in code.co_consts
    )


# Each annotation with its default, which a node without the annotation has.
_COMPARES_STREAMS = _mentions(stock.PatternMatcherPass.apply.__code__, "stream")
PLACES: dict[str, Any] = {"stream": 0} if _COMPARES_STREAMS or TRACKS_MEMPOOLS else {}
if TRACKS_MEMPOOLS:
    PLACES |= {"mempool": None, "mempool_device": None}

# The annotations of an output that all nodes which compute the new output inherit.
TAGS = ("recompute", "ac_graph_id", *(("custom",) if TRACKS_MEMPOOLS else ()))


def place_of(node: torch.fx.Node) -> tuple[Any, ...]:
    """Where a node runs, as a tuple to compare."""
    custom = node.meta.get("custom", {})
    return tuple(custom.get(key, missing) for key, missing in PLACES.items())


def common_place(nodes: Sequence[torch.fx.Node]) -> dict[str, Any]:
    """The annotations that new nodes in the place of these inherit."""
    if not TRACKS_MEMPOOLS:
        return {}
    found: dict[str, Any] = _common_context(nodes)
    return found
