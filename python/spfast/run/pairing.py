"""The pairs of a graph and of those that it calls, fused after all else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from spfast.async_tp import fuse_pairs
from spfast.config import SequenceParallelConfig
from spfast.fxgraph.graphs import called_graphs, graph_of
from spfast.fxgraph.journal import Journal, undo_all
from spfast.pairs import AsyncTP
from spfast.patterns import Registry
from spfast.recent import tell
from spfast.result import Merged, Result
from spfast.run.merging import merge_edited
from spfast.run.run import Run

__all__ = ["Pairs", "foresee", "fuse", "fuse_all"]


@dataclass(frozen=True)
class Pairs:
    """What was fused.

    Attributes:
        found: The pairs, fused and left; None where fusing is not asked for.
        journals: The journals that take the edits back, by the path of the graph.
    """

    found: AsyncTP | None = None
    journals: Mapping[str, Journal] = field(default_factory=dict)


def fuse_all(
    graphs: Mapping[str, fx.Graph], config: SequenceParallelConfig, registry: Registry
) -> Pairs:
    """Fuses in place, if the config says so; whatever is raised, all graphs are as they were.

    Args:
        graphs: By path; "" is the one that calls the others.
        config: Says whether pairs are fused, and which.
        registry: Says which collectives there are.

    Example:
        >>> from spfast.patterns import default_registry
        >>> fuse_all({"": fx.Graph()}, SequenceParallelConfig(), default_registry()).found
    """
    if not config.async_tp:
        return Pairs()
    parts: list[tuple[str, AsyncTP]] = []
    journals: dict[str, Journal] = {}
    try:
        for path, graph in graphs.items():
            found, journal = fuse_pairs(graph, config, registry)
            parts.append((path, found))
            if journal is not None:
                journals[path] = journal
    except BaseException:
        undo_all(journals.values())
        raise
    return Pairs(AsyncTP.of_graphs(parts), journals)


def foresee(
    runs: Iterable[Run],
    graphs: Mapping[str, fx.Graph],
    config: SequenceParallelConfig,
    registry: Registry,
) -> tuple[tuple[Merged, ...], AsyncTP | None]:
    """What :func:`merge_edited` and :func:`fuse_all` would do once the plans of runs are committed.

    Both are done, and taken back.
    """
    edited = [run for run in runs if run.native.planned_sites()]
    if not config.async_tp and not any(run.makes_sums for run in edited):
        return (), None
    journals: list[Journal] = []
    try:
        for run in edited:
            journals.append(run.edit())
        sums = merge_edited(edited, config, registry)
        journals += sums.journals.values()
        pairs = fuse_all(graphs, config, registry)
        journals += pairs.journals.values()
        return sums.merged, pairs.found
    finally:
        undo_all(journals)


def fuse(
    graph: fx.Graph | fx.GraphModule, config: SequenceParallelConfig, registry: Registry
) -> Result:
    """Fuses the pairs of a graph and of those that it calls, and does nothing else.

    Args:
        graph: As :func:`spfast.apply` takes it.
        config: Says which pairs are fused; its ``async_tp`` does not matter.
        registry: Says which collectives there are.

    Raises:
        GraphError: ``graph`` is not a graph.
        VerificationError: ``config.validate`` is set and the result could not be proved right.

        Whatever is raised, the graph is exactly as it was.

    Example:
        >>> from spfast.patterns import default_registry
        >>> int(fuse(fx.Graph(), SequenceParallelConfig(), default_registry()).async_tp)
        0
    """
    given = graph_of(graph)
    modules = called_graphs(given)
    graphs = {"": given, **{path: module.graph for path, module in modules.items()}}
    before = None
    if config.validate:
        from spfast.verifier import snapshot

        before = snapshot(given)
    pairs = fuse_all(graphs, replace(config, async_tp=True), registry)
    changed = [modules[path] for path in pairs.journals if path]
    try:
        for module in changed:
            module.recompile()
        if before is not None and pairs.journals:
            from spfast.verifier import verify

            verify(before, given, config).raise_if_failed()
    except BaseException:
        undo_all(pairs.journals.values())
        for module in changed:
            module.recompile()
        raise
    result = Result(async_tp=pairs.found)
    tell(result)
    return result
