"""The table of docs/models.md: what the pass does to each small model, counted on its capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from spfast.api import apply
from spfast.config import Recognise, SequenceParallelConfig
from spfast.table import NodeTable
from spfast.testing.models.capture import capture

__all__ = ["HEADER", "SIZES", "Row", "cells_of", "count", "fold", "unfold"]

TP_SIZE = 4
HEADER = (
    "| models | tokens | all_reduces | patterns: rewritten | gathers | bytes a token "
    "| both: rewritten | gathers | bytes a token | why the rest stays |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)

# Batch, and whether the length is symbolic, by how the table calls it.
SIZES = {"1 x 64": (1, False), "4 x 64": (4, False), "1 x s": (1, True), "4 x s": (4, True)}
# What the table says of one model at one size.
Cells = tuple[str, ...]


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


def cells_of(family: str, batch: int, dynamic: bool) -> Cells:
    """Captures a model and returns what the table says of it."""
    table = NodeTable.from_graph(
        capture(family, batch=batch, length=64, dynamic=dynamic, tp_size=TP_SIZE)
    )
    patterns, both = count(table, "patterns"), count(table, "both")
    cells: Iterable[object] = (
        both.sites,
        patterns.rewritten,
        patterns.gathers,
        patterns.bytes_per_token,
        both.rewritten,
        both.gathers,
        both.bytes_per_token,
        "; ".join(f"{n}: {reason}" for reason, n in both.left) or "nothing stays",
    )
    return tuple(map(str, cells))


def fold(found: Mapping[tuple[str, str], Cells]) -> list[str]:
    """Writes the table: what is the same of several models, or of all sizes, once.

    Args:
        found: By model and size.

    Example:
        >>> fold({(model, size): ("5",) for model in ("a", "b") for size in SIZES})
        ['| a, b | all | 5 |']
    """
    by_model: dict[str, dict[Cells, list[str]]] = {}
    for (model, size), cells in found.items():
        by_model.setdefault(model, {}).setdefault(cells, []).append(size)
    rows: dict[tuple[str, Cells], list[str]] = {}
    for model, sizes_by_cells in by_model.items():
        for cells, sizes in sizes_by_cells.items():
            tokens = "all" if len(sizes) == len(SIZES) else ", ".join(sizes)
            rows.setdefault((tokens, cells), []).append(model)
    return [
        f"| {' | '.join((', '.join(models), tokens, *cells))} |"
        for (tokens, cells), models in rows.items()
    ]


def unfold(lines: Iterable[str]) -> dict[tuple[str, str], Cells]:
    """Reads what :func:`fold` wrote.

    Example:
        >>> unfold(["| a, b | 1 x s | 5 |"])
        {('a', '1 x s'): ('5',), ('b', '1 x s'): ('5',)}
    """
    found: dict[tuple[str, str], Cells] = {}
    for line in lines:
        models, tokens, *cells = (cell.strip() for cell in line.strip("| ").split(" | "))
        for size in SIZES if tokens == "all" else tokens.split(", "):
            for model in models.split(", "):
                found[model, size] = tuple(cells)
    return found


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
