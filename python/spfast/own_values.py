"""What the graphs of one call tell each other of the values that they share."""

from __future__ import annotations

from collections.abc import Sequence

from spfast.crossings import crossings
from spfast.run import Run

__all__ = ["tell_across"]


def tell_across(runs: Sequence[Run]) -> None:
    """Tells each graph which of its values another one shows to be each rank's own."""
    by_path = {run.path: run for run in runs}
    graphs = {path: run.graph for path, run in by_path.items() if path}
    places = {
        path: {node: place for place, node in enumerate(run.graph.nodes)}
        for path, run in by_path.items()
    }
    pairs = [
        ((source, places[source][one]), (sink, places[sink][other]))
        for run in runs
        for (source, one), (sink, other) in crossings(run.graph, run.path, graphs)
    ]
    while pairs:
        told: dict[str, set[int]] = {}
        for pair in pairs:
            (source, one), (sink, other) = pair
            own = by_path[source].is_own(one)
            if own and not by_path[sink].is_own(other):
                told.setdefault(sink, set()).add(other)
            # What comes from one source says nothing of another one: those who read it do.
            elif not own and by_path[sink].is_given_away(other):
                told.setdefault(source, set()).add(one)
        if not told:
            return
        for path, found in told.items():
            by_path[path].tell_own(found)
