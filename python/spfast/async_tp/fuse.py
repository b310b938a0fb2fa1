"""One run over one graph: the core finds, plans and fuses the pairs, and asks this for policy."""

from __future__ import annotations

import time
from typing import Any

from torch import fx

from spfast import _core
from spfast.async_tp.collectives import spelling_of
from spfast.async_tp.operators import fused_operators
from spfast.async_tp.symmetric import obstacle, torch_group_name
from spfast.async_tp.values import make
from spfast.async_tp.worth import not_worth
from spfast.config import SequenceParallelConfig
from spfast.fxgraph.journal import Journal
from spfast.pairs import AsyncTP, FusedPair, LeftPair
from spfast.patterns import Registry
from spfast.ranks.groups import group_name

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
        config: Has the thresholds. Where it names a group, pairs of other groups are left.
        registry: Says which collectives there are.

    Returns:
        What was done, and the journal that takes it back (None where nothing was changed). Whatever
        is raised, the graph is as it was.

    Example:
        >>> from spfast.patterns import default_registry
        >>> int(fuse_pairs(fx.Graph(), SequenceParallelConfig(), default_registry())[0])
        0
    """
    start = time.perf_counter()
    forms = spelling_of(registry).forms(graph)
    if not forms:
        return AsyncTP(), None
    native = _core.NativePairRun(graph, forms, fused_operators())
    policy = _Policy(config)
    native.plan(policy.group, policy.worth)
    planned = native.fused()
    journal: Journal | None = native.commit(make) if planned else None
    fused: list[FusedPair] = []
    if journal is not None:
        created = [entry[1] for entry in journal.entries if entry[0] == "create"]
        for pair in planned:
            node = created[pair.created]
            operator = node.target.__name__.split(".")[0]
            fused.append(FusedPair(node.name, pair.collective, pair.products, operator))
    kept = tuple([LeftPair(*each) for each in native.left()])
    return AsyncTP(tuple(fused), kept, time.perf_counter() - start), journal


class _Policy:
    """What the core cannot know: which groups and devices can fuse, and which shapes gain."""

    def __init__(self, config: SequenceParallelConfig) -> None:
        self._config = config
        self._known: dict[tuple[Any, ...], str] = {}

    def group(self, group: Any) -> tuple[str, str]:
        """Why a group's collectives stay (empty where they need not), and torch's name for it."""
        wanted, name = self._config.group_name, group_name(group)
        if wanted is not None and name != wanted:
            return f"its group '{name}' is not group_name='{wanted}'", ""
        return "", torch_group_name(group)

    def worth(self, group: Any, operand: fx.Node, tokens: Any, features: Any) -> str:
        """Why a pair cannot be fused, or is not worth it; empty where it is."""
        value = operand.meta["val"]
        # Groups and sizes are the same objects throughout a run.
        key = (id(group), value.device, value.dtype, _key(tokens), _key(features))
        found = self._known.get(key)
        if found is None:
            found = obstacle(group, value.device) or not_worth(
                self._config, value, tokens, features
            )
            self._known[key] = found
        return found


def _key(size: Any) -> int:
    return size if type(size) is int else -id(size)
