"""The run of a pass over a graph: the order of candidates, and what a match must pass."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
from torch._dynamo.utils import counters
from torch.fx.passes.graph_transform_observer import GraphTransformObserver

from spfast._core import ExprProgram, ExprScanner, ScanHit
from spfast.pattern_matcher.adopt import adopt
from spfast.pattern_matcher.entry import DEBUG, ReplacementEntry
from spfast.pattern_matcher.judgements import Support, compute_mutation_region_ids, mutates
from spfast.pattern_matcher.lowering import route_of
from spfast.pattern_matcher.places import PLACES, TRACKS_MEMPOOLS, common_place, place_of
from spfast.pattern_matcher.session import Session
from spfast.pattern_matcher.splice import BACKEND

__all__ = ["run"]

# Torch's own function is kept at import, for `patched()` puts another one in its place.
_torch_apply = stock.PatternMatcherPass.apply

# An older torch leaves the regions as they were when a replacement writes to memory.
# It also takes a symbolic answer of a check for a guard.
_truth: Callable[[Any], Any] = getattr(stock, "guard_or_false", bool)

_TRACKS_REGIONS = hasattr(stock, "_track_graph_mutation_ops")


def run(rules: stock.PatternMatcherPass, target: torch.fx.GraphModule | torch.fx.Graph) -> int:
    """Applies a pass to a graph, as torch's `PatternMatcherPass.apply` does.

    Returns:
        The number of matches replaced.

    Raises:
        RuntimeError: `target` is no graph.
        Whatever users' functions raise; the graph is then as before the match at hand.
    """
    if not rules.patterns:
        return 0
    if os.environ.get(DEBUG):
        # Torch then logs each candidate that it looks at, also those that do not match.
        return _torch_apply(rules, target)
    graph, module = _graph_of(target)
    if stock.should_compute_mutation_region_ids(graph):
        compute_mutation_region_ids(graph)
    candidates = _candidates(rules, graph)
    name = rules.pass_name if rules.pass_name is not None else "pattern_matcher"
    with GraphTransformObserver(module, name, getattr(rules, "subsystem", None)):
        count = _Run(rules, graph).visit(candidates)
    return count


def _graph_of(target: Any) -> tuple[torch.fx.Graph, torch.fx.GraphModule]:
    if isinstance(target, torch.fx.GraphModule):
        return target.graph, target
    if isinstance(target, torch.fx.Graph):
        module = target.owning_module
        assert isinstance(module, torch.fx.GraphModule)
        return target, module
    raise RuntimeError(
        f"PatternMatcherPass.apply takes a GraphModule or a Graph, but got {type(target)}"
    )


def _candidates(rules: stock.PatternMatcherPass, graph: torch.fx.Graph) -> list[torch.fx.Node]:
    found = []
    modules = False
    for op, target in rules.patterns:
        if op == "call_module":
            modules = True
        else:
            found.append(graph.find_nodes(op=op, target=target, sort=False))
    if modules:
        found.append(graph.find_nodes(op="call_module", sort=False))
    return sorted(itertools.chain.from_iterable(found), reverse=True)


class _Run:
    """One run of a pass over a graph."""

    def __init__(self, rules: stock.PatternMatcherPass, graph: torch.fx.Graph) -> None:
        self._rules = rules
        self._graph = graph
        self._session = Session()
        self._support = Support()

    def visit(self, candidates: list[torch.fx.Node]) -> int:
        """Visits the candidates in order; returns how many matches were replaced."""
        table: dict[str, dict[Any, list[ExprProgram | None]]] = {}
        registered: dict[Any, list[Any]] = {}
        for (op, target), entries in self._rules.patterns.items():
            registered[(op, target)] = [adopt(entry) for entry in entries]
            programs = [route_of(entry.pattern).program for entry in entries]
            table.setdefault(op, {})[target] = programs
        scanner = ExprScanner(candidates, table, PLACES)
        count = 0
        while (hit := scanner.advance()) is not None:
            node = hit.node
            entry = registered[(node.op, stock.extract_target(node))][hit.entry]
            count += self._consider(entry, hit)
        return count

    def _consider(self, entry: Any, hit: ScanHit) -> int:
        match: Any
        node = hit.node
        route = route_of(entry.pattern)
        if hit.found is None:
            route.unknown += route.program is not None
            match = entry.pattern.match(node)
            self._session.touch()
        else:
            match = route.to_match(hit.found, self._graph)
        if not match:
            return 0
        if not hit.one_region and not _in_one_region(self._graph, match.nodes):
            return 0
        if self._support.lacks(node):
            return 0
        check = entry.extra_check
        if getattr(check, "__func__", None) is ReplacementEntry.check:
            accepted: Any = check.__self__.decide(match, self._session)
        else:
            accepted = check(match)
            self._session.touch()
        if not _truth(accepted):
            return 0
        _apply(entry, match, self._graph, node)
        if not isinstance(entry, ReplacementEntry):
            self._session.touch()
        return 1


def _in_one_region(graph: torch.fx.Graph, nodes: list[torch.fx.Node]) -> bool:
    """Whether all nodes lie between the same two mutations and in the same place."""
    regions = {stock.get_mutation_region_id(graph, node) for node in nodes}
    return len(regions) == 1 and len({place_of(node) for node in nodes}) == 1


def _apply(entry: Any, match: stock.Match, graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    _rewrite(entry, match, graph, node)
    backend = BACKEND
    counters[backend]["pattern_matcher_count"] += 1
    counters[backend]["pattern_matcher_nodes"] += len(match.nodes)


def _rewrite(entry: Any, match: stock.Match, graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    apply: Callable[..., None] = entry.apply
    if not _TRACKS_REGIONS:
        apply(match, graph, node)
        return
    if isinstance(entry, stock.GraphPatternEntry):
        place = (common_place(match.nodes),) if TRACKS_MEMPOOLS else ()
        with stock._track_graph_mutation_ops(graph, *place) as tracker:
            apply(match, graph, node)
        if tracker.changed_mutation_regions():
            compute_mutation_region_ids(graph)
        return
    if isinstance(entry, stock.ReplacementPatternEntry) and not _changes_regions(match):
        apply(match, graph, node)
        return
    refresh = stock._mutation_region_refresh(graph, match.nodes)
    apply(match, graph, node)
    stock._refresh_mutation_region_ids(graph, refresh)


def _changes_regions(match: stock.Match) -> bool:
    accepted = getattr(match, "accepted", None)
    if accepted is not None:
        changes: bool = accepted.template.mutates
    else:
        assert match.replacement_graph is not None
        changes = any(mutates(node) for node in match.replacement_graph.graph.nodes)
    return changes or any(mutates(node) for node in match.nodes)
