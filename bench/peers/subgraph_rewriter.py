"""torch.fx.subgraph_rewriter with the same rules.

The rewriter carries no metadata over by itself; each replacement is therefore traced with the
metadata of the match (once for each distinct metadata in a graph), and its nodes keep the fake
values of that trace. The graph sits in a lazily compiled GraphModule, as Inductor's does, so that
the rewriter's recompile after every rule costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch._dynamo.utils import detect_fake_mode
from torch._inductor import pattern_matcher as pm
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.subgraph_rewriter import replace_pattern_with_filters

from .pattern_matcher_cached import TraceCache
from .peer import Peer, Rewrite, Setting
from .rules import Rule, cleanup, rules, undecomposed


def _replacement(rule: Rule, cache: TraceCache) -> Callable[[Any, fx.Graph, fx.Graph], fx.Graph]:
    """Traces the rule's replacement with the values that a match's inputs carry."""

    def trace(match: Any, _: fx.Graph, __: fx.Graph) -> fx.Graph:
        values = [node.meta["val"] for node in match.placeholder_nodes]
        mode = detect_fake_mode(values)
        assert mode is not None
        with mode:
            fresh = [
                torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device)
                for v in values
            ]
            return cache(rule.replace, fresh, **undecomposed(pm.fwd_only)).graph

    return trace


def prepare(setting: Setting) -> Rewrite:
    """Traces the search functions."""
    cache = TraceCache()
    with FakeTensorMode():
        patterns = [
            (
                pm.fwd_only(rule.search, rule.inputs(), **undecomposed(pm.fwd_only)),
                _replacement(rule, cache),
            )
            for rule in rules(setting)
        ]

    def rewrite(graph: fx.Graph) -> int:
        gm = graph.owning_module
        assert isinstance(gm, _LazyGraphModule)
        cache.clear()
        count = 0
        for pattern, callback in patterns:
            count += len(replace_pattern_with_filters(gm, pattern, replacement_callback=callback))
        cleanup(graph)
        return count

    return rewrite


PEER = Peer("torch.fx.subgraph_rewriter", prepare)
