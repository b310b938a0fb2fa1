"""One run over one graph: finds the pairs, and makes one operator of each that is worth it."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import fx

from spfast.async_tp.collectives import Collective, Spelling, spelling_of
from spfast.async_tp.gathers import GatherPair, find_gather_pair
from spfast.async_tp.reading import tensor
from spfast.async_tp.scatters import ScatterPair, find_scatter_pair
from spfast.async_tp.symmetric import obstacle
from spfast.async_tp.worth import not_worth
from spfast.config import SequenceParallelConfig
from spfast.edits import Edits
from spfast.graphs import targets_of
from spfast.groups import group_name
from spfast.journal import Journal
from spfast.pairs import AsyncTP, FusedPair, LeftPair
from spfast.patterns import Registry
from spfast.writes import Writes, may_write

__all__ = ["fuse_pairs", "has_collectives"]


def has_collectives(graph: fx.Graph, registry: Registry) -> bool:
    """Whether a graph has a reduce_scatter or an all_gather at all.

    Example:
        >>> from spfast.patterns import default_registry
        >>> has_collectives(fx.Graph(), default_registry())
        False
    """
    return spelling_of(registry).any(graph)


def fuse_pairs(
    graph: fx.Graph, config: SequenceParallelConfig, registry: Registry
) -> tuple[AsyncTP, Journal | None]:
    """Makes one operator of each collective and the matrix products beside it, in place.

    Args:
        graph: A graph with fake tensors in ``meta["val"]``.
        config: Has the thresholds; where it names a group, others are left.
        registry: Says which collectives there are.

    Returns:
        What was done, and what takes all of it back; None where nothing was changed. Whatever is
        raised, the graph is as it was.

    Example:
        >>> from spfast.patterns import default_registry
        >>> int(fuse_pairs(fx.Graph(), SequenceParallelConfig(), default_registry())[0])
        0
    """
    start = time.perf_counter()
    spelling = spelling_of(registry)
    calls = sorted(spelling.calls(graph))
    if not calls:
        return AsyncTP(), None
    edits = Edits(graph)
    try:
        fused, left = _Run(graph, config, spelling, edits).run(calls)
        edits.finish()
    except BaseException:
        edits.journal.undo()
        raise
    journal = edits.journal if edits.journal.entries else None
    return AsyncTP(fused, left, time.perf_counter() - start), journal


class _Run:
    def __init__(
        self, graph: fx.Graph, config: SequenceParallelConfig, spelling: Spelling, edits: Edits
    ) -> None:
        self._config = config
        self._spelling = spelling
        self._edits = edits
        self._writes = Writes(graph) if any(map(may_write, targets_of(graph))) else None
        self._obstacles: dict[tuple[str, torch.device], str] = {}
        self._yields: dict[fx.Node, fx.Node] = {}  # a gathered value: the call

    def run(self, calls: list[fx.Node]) -> tuple[tuple[FusedPair, ...], tuple[LeftPair, ...]]:
        fused: list[FusedPair] = []
        left: list[tuple[fx.Node, str]] = []
        for call in calls:
            each = self._spelling.read(call)
            if isinstance(each, Collective) and each.gathers:
                self._yields[each.value] = call
        for call in calls:
            if call._erased:  # a gather of scales, which went with that of what they scale
                continue
            each = self._spelling.read(call)  # anew: what it reads may be fused by now
            found = each if isinstance(each, str) else self._pair(each)
            if isinstance(found, str):
                left.append((call, found))
                continue
            names = (call.name, tuple(each.inside[0].name for each in found.products))
            node = self._fuse(found)
            fused.append(FusedPair(node.name, *names, found.operator))
        return tuple(fused), tuple(
            LeftPair(call.name, why) for call, why in left if not call._erased
        )

    def _pair(self, each: Collective) -> GatherPair | ScatterPair | str:
        wanted = self._config.group_name
        if wanted is not None and group_name(each.group) != wanted:
            return f"its group '{group_name(each.group)}' is not group_name='{wanted}'"
        found: GatherPair | ScatterPair | str
        if each.gathers:
            found = find_gather_pair(each, self._gather_of)
        else:
            found = find_scatter_pair(each)
        if isinstance(found, str):
            return found
        if self._writes is not None:
            for node in found.reads:
                if self._writes.touch(node):
                    return f"'{node.name}', which it reads, is written to in place"
        operand = tensor(found.products[0].left)
        assert operand is not None
        return (
            self._obstacle(each.group, operand.device)
            or not_worth(self._config, operand, found.tokens, found.features)
            or found
        )

    def _gather_of(self, node: fx.Node) -> Collective | None:
        """The gather that yields a node."""
        call = self._yields.get(node)
        found = None if call is None or call._erased else self._spelling.read(call)
        return found if isinstance(found, Collective) else None

    def _obstacle(self, group: Any, device: torch.device) -> str:
        key = (group_name(group), device)
        if key not in self._obstacles:
            self._obstacles[key] = obstacle(group, device)
        return self._obstacles[key]

    def _fuse(self, pair: GatherPair | ScatterPair) -> fx.Node:
        node = pair.fuse(self._edits)
        buffers = {buffer for each in pair.products for buffer in each.buffers}
        for each in sorted({*pair.inside, *buffers}, reverse=True):
            if not each.users and not each._erased:
                self._edits.erase(each)
        return node
