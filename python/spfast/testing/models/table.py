"""The table of docs/models.md: what the pass does to each small model, counted on its capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx

from spfast.api import apply
from spfast.config import Recognise, SequenceParallelConfig
from spfast.table import NodeTable
from spfast.testing.models.capture import capture

__all__ = ["HEADER", "Row", "count", "row_of"]

TP_SIZE = 4
HEADER = (
    "| model | tokens | all_reduces | patterns: rewritten | gathers | bytes a token "
    "| both: rewritten | gathers | bytes a token | why the rest stays |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """What one recogniser made of one capture.

    Attributes:
        sites: all_reduces before.
        rewritten: of them.
        gathers: all_gathers that were added.
        bytes_per_token: what those gather of each token, and the all_reduces that stay (one is a
            reduce_scatter and an all_gather of its value).
        left: reasons of those, with how often each is given.
    """

    sites: int
    rewritten: int
    gathers: int
    bytes_per_token: int
    left: tuple[tuple[str, int], ...]


def count(table: NodeTable, recognise: Recognise) -> Row:
    """Applies the pass to a fresh copy of a captured graph and counts."""
    graph = table.to_graph()
    known = set(_gathers(graph))
    sites = len(_reduces(graph))
    config = SequenceParallelConfig(tp_size=TP_SIZE, tp_rank=0, recognise=recognise)
    result = apply(graph, config)
    names = {node.name for node in known}
    added = [node for node in _gathers(graph) if node.name not in names]
    kept = _reduces(graph)
    moved = sum(_row_bytes(node) for node in (*added, *kept))
    reasons = Counter(_general(site.reason) for site in result.skipped)
    return Row(sites, int(result), len(added), moved, tuple(sorted(reasons.items())))


def row_of(family: str, batch: int, dynamic: bool) -> str:
    """Captures a model and returns its line of the table."""
    table = NodeTable.from_graph(
        capture(family, batch=batch, length=64, dynamic=dynamic, tp_size=TP_SIZE)
    )
    patterns, both = count(table, "patterns"), count(table, "both")
    size = f"{batch} x s" if dynamic else f"{batch} x 64"
    cells: Iterable[object] = (
        family,
        size,
        both.sites,
        patterns.rewritten,
        patterns.gathers,
        patterns.bytes_per_token,
        both.rewritten,
        both.gathers,
        both.bytes_per_token,
        "; ".join(f"{n}: {reason}" for reason, n in both.left) or "nothing stays",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _gathers(graph: fx.Graph) -> list[fx.Node]:
    target = torch.ops._c10d_functional.all_gather_into_tensor.default
    return list(graph.find_nodes(op="call_function", target=target))


def _reduces(graph: fx.Graph) -> list[fx.Node]:
    target = torch.ops._c10d_functional.all_reduce.default
    return list(graph.find_nodes(op="call_function", target=target))


def _row_bytes(node: fx.Node) -> int:
    """Bytes of one token's features: all dims but the leading ones, which hold the tokens."""
    value = node.meta["val"]
    gather = "all_gather" in str(node.target)
    features = value.shape[1:] if gather else value.shape[-1:]
    size: int = value.element_size()
    for dim in features:
        size *= int(dim)
    return size


def _general(reason: str) -> str:
    """A reason without the names of nodes."""
    return " ".join(word for word in reason.split() if not word.startswith("%"))
