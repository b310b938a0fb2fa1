"""The sums of reductions of a graph and of those that it calls, merged before all else.

Calls in place, or of several tensors, cannot be merged that early. Where such calls are rewritten,
their sums are merged afterwards. So are sums of padded values, which are fresh tensors only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.fxgraph.journal import Journal, undo_all
from spfast.patterns import Registry
from spfast.result import Merged
from spfast.run.run import Run
from spfast.sums.merger import merger_of

__all__ = ["Sums", "merge_edited", "merge_sums"]


@dataclass(frozen=True)
class Sums:
    """What was merged.

    Attributes:
        merged: The reductions that are left of several.
        journals: What takes it back, by the path of the graph.
    """

    merged: tuple[Merged, ...] = ()
    journals: Mapping[str, Journal] = field(default_factory=dict)

    def undo(self) -> None:
        """Takes all of it back."""
        undo_all(self.journals.values())


def merge_sums(graphs: Mapping[str, fx.Graph], registry: Registry) -> Sums:
    """Merges in place; whatever is raised, all graphs are as they were.

    Args:
        graphs: By path; "" is the one that calls the others.
        registry: Says which collectives there are.

    Example:
        >>> from spfast.patterns import default_registry
        >>> merge_sums({"": fx.Graph()}, default_registry()).merged
        ()
    """
    merger = merger_of(registry)
    merged: list[Merged] = []
    journals: dict[str, Journal] = {}
    try:
        for path, graph in graphs.items():
            here, journal = merger.merge(graph)
            if journal is not None:
                journals[path] = journal
            at = f"{path}." if path else ""
            merged += [
                Merged(at + each.node, tuple(at + name for name in each.gone)) for each in here
            ]
    except BaseException:
        undo_all(journals.values())
        raise
    return Sums(tuple(merged), journals)


def merge_edited(runs: Iterable[Run], config: SequenceParallelConfig, registry: Registry) -> Sums:
    """Merges in place the sums of calls that the edits of runs made reductions like any other.

    Args:
        runs: The runs whose edits are made.
        config: Says whether sums are merged.
        registry: Says which collectives there are.

    Example:
        >>> from spfast.patterns import default_registry
        >>> merge_edited([], SequenceParallelConfig(), default_registry()).merged
        ()
    """
    if not config.merge_sums:
        return Sums()
    return merge_sums({run.path: run.graph for run in runs if run.makes_sums}, registry)
