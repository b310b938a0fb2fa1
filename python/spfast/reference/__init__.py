"""The pass in plain Python, written as one reads the rules: slow, obvious, and an oracle.

It does by other means what the native engine does: every pattern is tried on every candidate, the
plan is made of sets and dictionaries of nodes, and ``meta["val"]`` is what FakeTensorMode computes.
The differential tests compare the two, and the benchmark runs it as a peer.
"""

from __future__ import annotations

import time
from collections import Counter

from torch import fx

from spfast.config import SequenceParallelConfig, as_config
from spfast.fxgraph.graphs import graph_of
from spfast.patterns import Registry, default_registry
from spfast.ranks.groups import check_unambiguous, group_name
from spfast.reference.matching import find_anchors, find_matches
from spfast.reference.planner import make_plan
from spfast.reference.replication import Replication
from spfast.reference.sites import examine
from spfast.reference.values import Memory
from spfast.result import Result, SkippedSite, Timings

__all__ = ["apply"]


def apply(
    graph: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> Result:
    """Rewrites a tensor-parallel graph in place, as :func:`spfast.apply` does.

    Args:
        graph: The graph that this rank compiles, with fake tensors in ``meta["val"]``.
        config: What is not given is looked up from the graph's process groups.
        registry: The rules to use; None takes those of ``spfast.patterns``.

    Returns:
        What was rewritten, and what was left and why. Of the timings there is only the total, and
        nothing says which rule was nearest where none holds.

    Raises:
        GraphError: ``graph`` is not a graph.
        ConfigError: A process group cannot be looked up.

        Whatever is raised, the graph is exactly as it was.

    Example:
        >>> import torch
        >>> from spfast.testing import ops
        >>> from spfast.testing.graphs import seeded_case
        >>> graph = seeded_case(3).graph
        >>> config = SequenceParallelConfig(tp_size=2, tp_rank=0)
        >>> int(apply(graph, config)) >= 0
        True
    """
    start = time.perf_counter()
    graph = graph_of(graph)
    config = as_config(config)
    registry = registry if registry is not None else default_registry()
    anchors = find_anchors(graph, registry.families())
    check_unambiguous(
        {group_name(anchor.group) for anchor in anchors if isinstance(anchor.group, str)}, config
    )
    patterns = [
        pattern
        for pattern in registry.patterns()
        if config.gather_quantized or not pattern.quantises
    ]
    matches, reasons = find_matches(graph, patterns, anchors)
    memory = Memory(graph)
    replication = Replication(
        graph,
        memory,
        row_wise={rule.op for rule in registry.rowwise()},
        groups={anchor.all_reduce: anchor.group for anchor in anchors},
        config=config,
    )
    sites = examine(matches, memory, replication, config)
    reasons.update({site.all_reduce: site.reason for site in sites if site.reason})
    rewritten = [site for site in sites if not site.reason]
    if rewritten:
        plan = make_plan(graph, rewritten, memory)
        values = plan.values(graph)
        for sharing in dict.fromkeys(site.sharing for site in rewritten):
            assert sharing is not None
            sharing.decision.commit()
        plan.carry_out(graph, values)
    return Result(
        matched_count=len(rewritten),
        by_pattern=Counter(site.match.pattern.rule for site in rewritten),
        skipped=tuple(
            SkippedSite(anchor.all_reduce.name, reasons[anchor.all_reduce])
            for anchor in anchors
            if anchor.all_reduce in reasons
        ),
        timings=Timings(total=time.perf_counter() - start),
    )
