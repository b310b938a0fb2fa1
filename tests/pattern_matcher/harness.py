"""Runs one pass definition through torch's matcher and through ours, on equal graphs, and compares.

A pass definition is a function of the matcher module: ``define(pm) -> PatternMatcherPass``. It must
use nothing else of either module, so that somebody's pass is what is tested. What is compared: the
count, the counters, an error with its message, what the user's functions saw of each match, the
whole graph with its metadata (see ``describe``), mutation regions, and the order of effects.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.fx as fx
from pattern_matcher.describe import (
    _value,
    describe,
    difference,
    effects,
    regions,
    signatures,
)
from torch._dynamo.utils import counters
from torch._inductor import pattern_matcher as torch_matcher

Define = Callable[..., Any]
Build = Callable[[], fx.GraphModule]


# The oldest torch whose matcher replaces as the later ones do; 2.12 was not tried.
SINCE = "2.13"


def not_older(what: str) -> pytest.MarkDecorator:
    """For what an older torch's own matcher does not do, so that there is nothing to agree with."""
    reason = f"this torch's matcher is older: {what}"
    return pytest.mark.skipif(torch.__version__ < SINCE, reason=reason)


class Disagreement(AssertionError):
    """The two matchers did not do the same."""


def subject() -> Any:
    """The matcher under test; ``SPFAST_TEST_MATCHER`` names another, to try the tests."""
    return importlib.import_module(os.environ.get("SPFAST_TEST_MATCHER", "spfast.pattern_matcher"))


class Knotted(Exception):
    """A rewrite has made a graph with a cycle."""


@dataclass
class Spy:
    """What user code of a pass notes while it runs; a pass definition may take one as ``spy``."""

    notes: list[Any] = field(default_factory=list)

    def match(self, match: Any) -> None:
        """Notes all of a match that user code can see."""
        number = {node: i for i, node in enumerate(match.graph.nodes)}
        outputs = [number.get(node) if node is not None else None for node in match.output_nodes()]
        self.notes.append(
            {
                "args": _value(tuple(match.args), number),
                "kwargs": sorted((k, repr(_value(v, number))) for k, v in match.kwargs.items()),
                "nodes": [number.get(node, "gone") for node in match.nodes],
                "outputs": outputs,
                "targets": sorted(str(t) for t in match.targets.values()),
            }
        )

    def note(self, *values: Any) -> None:
        """Notes plain values."""
        self.notes.append(values)


@dataclass(frozen=True)
class Outcome:
    """What one matcher did."""

    count: int | None
    error: tuple[str, str] | None
    nodes: list[dict[str, Any]]
    regions: list[int]
    effects: list[str]
    counted: dict[str, int]
    notes: list[Any]
    graph_module: fx.GraphModule
    moved: bool = False
    routes: str = ""


def run(
    pm: ModuleType | Any, define: Define, gm: fx.GraphModule, takes_spy: bool, sort: bool = False
) -> Outcome:
    """Defines the pass with one matcher and applies it to one graph, sorted afterwards if asked.

    Raises:
        Knotted: the graph cannot be sorted any more.
    """
    spy = Spy()
    counters.clear()
    count: int | None = None
    error: tuple[str, str] | None = None
    matcher: Any = None
    try:
        matcher = define(pm, spy) if takes_spy else define(pm)
        counters.clear()
        count = matcher.apply(gm)
    except Exception as e:  # registering may fail as well
        error = (type(e).__name__, str(e))
    counted = {k: v for k, v in counters["inductor"].items() if v}
    moved = sort and not in_order(gm.graph)
    if moved:
        try:
            torch_matcher.stable_topological_sort(gm.graph)
        except AssertionError as e:
            raise Knotted(str(gm.graph)) from e
    gm.graph.lint()
    return Outcome(
        count=count,
        error=error,
        nodes=describe(gm.graph),
        regions=regions(gm.graph),
        effects=effects(gm.graph),
        counted=counted,
        notes=spy.notes,
        graph_module=gm,
        moved=moved,
        routes=matcher.describe() if hasattr(matcher, "describe") else "",
    )


def in_order(graph: fx.Graph) -> bool:
    """Whether each node comes after its inputs."""
    seen: set[fx.Node] = set()
    for node in graph.nodes:
        if any(i not in seen for i in node.all_input_nodes):
            return False
        seen.add(node)
    return True


def agree(
    define: Define,
    build: Build,
    count: int | None = None,
    error: tuple[str, str] | None = None,
    spy: bool = False,
    pm: Any = None,
    sort: bool = False,
) -> Outcome:
    """Asserts that both matchers do the same with a pass on a graph.

    Args:
        define: the pass, given the matcher module (and a Spy where ``spy`` is set).
        build: makes the graph; called twice, must give equal graphs.
        count: how often torch matches, as the test's author expects; None: whatever it is.
        error: the type's name and a part of the message of the error that is expected.
        spy: whether ``define`` takes a Spy.
        pm: the matcher under test; by default that of ``subject()``.
        sort: whether torch may leave a graph out of order here: it is sorted, and compared without
            the order of nodes. Where torch has tied a knot, ours must only be a sound graph.

    Returns:
        What the matcher under test did.

    Raises:
        Disagreement: naming the first difference.
    """
    theirs_gm, ours_gm = build(), build()
    start = difference(describe(ours_gm.graph), describe(theirs_gm.graph))
    if start is not None:
        raise ValueError(f"the two graphs differ before anything is applied: {start}")
    try:
        theirs = run(torch_matcher, define, theirs_gm, spy, sort)
    except Knotted:
        return run(subject() if pm is None else pm, define, ours_gm, spy)
    ours = run(subject() if pm is None else pm, define, ours_gm, spy)
    if torch.__version__ < SINCE and "unexpected keyword argument" in str(theirs.error):
        pytest.skip(f"this torch's matcher is older: {theirs.error}")
    if error is None and theirs.error is not None and count is not None:
        raise ValueError(f"torch's matcher raised {theirs.error}")
    if error is not None and (
        theirs.error is None or theirs.error[0] != error[0] or error[1] not in theirs.error[1]
    ):
        raise ValueError(f"torch's matcher raised {theirs.error}, not {error}")
    if count is not None and theirs.count != count:
        raise ValueError(f"torch's matcher counts {theirs.count}, not {count}: wrong test")
    compare(ours, theirs, ordered=not sort)
    return ours


def compare(ours: Outcome, theirs: Outcome, ordered: bool = True) -> None:
    """Raises Disagreement unless two outcomes are the same.

    Args:
        ours: what the matcher under test did.
        theirs: what torch's did.
        ordered: whether the nodes must stand in the same order. Where torch orders independent
            nodes of one replacement now so and now so (it depends on what it has cached), only
            effects have an order.
    """
    if ours.error != theirs.error:
        raise Disagreement(f"error: {ours.error} instead of {theirs.error}")
    if theirs.moved and "be its own input" in ours.routes:
        return  # where torch's result is out of order, ours may refuse: a knot was near
    if ours.count != theirs.count:
        raise Disagreement(f"count: {ours.count} instead of {theirs.count}")
    if len(ours.notes) != len(theirs.notes):
        _first_note(ours, theirs)
        raise Disagreement(
            f"user code was called {len(ours.notes)} times instead of {len(theirs.notes)}"
        )
    found = difference(ours.nodes, theirs.nodes)
    code = f"\nours:\n{ours.graph_module.graph}\ntorch's:\n{theirs.graph_module.graph}"
    if found is not None and (theirs.moved or not ordered):
        left, right = signatures(ours.graph_module.graph), signatures(theirs.graph_module.graph)
        if left != right:
            raise Disagreement(f"{left - right} instead of {right - left}{code}")
    else:
        if not theirs.moved:  # places in a graph out of order say nothing
            _first_note(ours, theirs)
        if found is not None:
            raise Disagreement(found + code)
        if ours.regions != theirs.regions:
            raise Disagreement(f"regions: {ours.regions} instead of {theirs.regions}")
    for name in ("effects", "counted"):
        left, right = getattr(ours, name), getattr(theirs, name)
        if left != right:
            raise Disagreement(f"{name}: {left} instead of {right}")


def _first_note(ours: Outcome, theirs: Outcome) -> None:
    for i, (a, b) in enumerate(zip(ours.notes, theirs.notes, strict=False)):
        if a != b:
            raise Disagreement(f"user code saw, note {i}: {a} instead of {b}")
