"""What the graphs of one call tell each other of the values that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from spfast.fxgraph.crossings import Crossing, crossings
from spfast.fxgraph.writes import root_of
from spfast.ranks.told import Told
from spfast.run.run import Run

__all__ = ["tell_across"]


def tell_across(runs: Sequence[Run]) -> None:
    """Tells each graph what others do to its values, and which they show to be each rank's own."""
    by_path = {run.path: run for run in runs}
    graphs = {path: run.graph for path, run in by_path.items() if path}
    places = {
        path: {node: place for place, node in enumerate(run.graph.nodes)}
        for path, run in by_path.items()
    }
    found = [each for run in runs for each in crossings(run.graph, run.path, graphs)]
    if not found:
        return
    _tell_calls(by_path, places, found)
    while _tell_writes(by_path, places, found):
        pass
    while _tell_own(by_path, places, found):
        pass


_Runs = Mapping[str, Run]
_Places = Mapping[str, Mapping[fx.Node, int]]


def _tell_calls(runs: _Runs, places: _Places, found: Sequence[Crossing]) -> None:
    """Tells each graph which calls are followed, and whose memory their results may share."""
    shown = _shown(runs, found)
    for path, run in runs.items():
        place = places[path]
        calls = {each.call for each in found if each.call in place}
        run.tell(
            Told(
                known=frozenset(place[call] for call in calls),
                shown=frozenset(
                    (place[call], place[operand])
                    for call in calls
                    for operand in shown.get(call, ())
                ),
            )
        )


def _shown(runs: _Runs, found: Sequence[Crossing]) -> Mapping[fx.Node, set[fx.Node]]:
    """For each call: the operands whose memory its results may share."""
    shown: dict[fx.Node, set[fx.Node]] = {}
    returned = {path: _returned(run.graph) for path, run in runs.items()}
    changed = True
    while changed:
        changed = False
        for each in found:
            operand, (path, value) = each.source[1], each.sink
            if not each.is_operand or operand in shown.get(each.call, ()):
                continue
            roots = returned[path]
            inner = {root_of(one) for root in roots for one in shown.get(root, ())}
            if value in roots or value in inner:
                shown.setdefault(each.call, set()).add(operand)
                changed = True
    return shown


def _returned(graph: fx.Graph) -> set[fx.Node]:
    """The values whose memory a graph returns."""
    output = next((node for node in reversed(graph.nodes) if node.op == "output"), None)
    return set() if output is None else {root_of(each) for each in output.all_input_nodes}


def _tell_writes(runs: _Runs, places: _Places, found: Sequence[Crossing]) -> bool:
    """Tells each graph which operands its calls write to, because the called graphs do."""
    told = dict.fromkeys(runs, Told())
    for each in found:
        (caller, operand), (called, value), call = each
        if each.is_operand and runs[called].is_written(places[called][value]):
            pair = (places[caller][call], places[caller][operand])
            told[caller] |= Told(written=frozenset({pair}))
    return _take(runs, told)


def _tell_own(runs: _Runs, places: _Places, found: Sequence[Crossing]) -> bool:
    """Tells each graph which values another graph shows to be each rank's own."""
    told = dict.fromkeys(runs, Told())
    for each in found:
        (source, one), (sink, other) = each.source, each.sink
        at, to = places[source][one], places[sink][other]
        if runs[source].is_own(at) or runs[source].is_written_own(at):
            told[sink] |= Told(own=frozenset({to}))
        # Where a value comes from several sources, only its readers show something of each one.
        elif runs[sink].is_shown_by_readers(to):
            told[source] |= Told(own=frozenset({at}))
        if each.is_operand and runs[sink].is_written_own(to):
            call = places[source][each.call]
            told[source] |= Told(writers=frozenset({call}))
    return _take(runs, told)


def _take(runs: _Runs, told: Mapping[str, Told]) -> bool:
    """Tells each graph everything at once, for it is matched anew; returns whether any is new."""
    any_new = False
    for path, more in told.items():
        any_new |= runs[path].tell(more)
    return any_new
