"""torch._inductor.pattern_matcher with the tracing taken out by hand: the most that can be had from
it without changing torch.

The search pattern is given ready-made, its literals compared in the search itself, so torch does
not trace it again at a match (sound here, because no search function depends on the shapes of its
arguments). The replacement is traced once for each distinct metadata of the arguments in a graph
and reused: the nodes made from one trace therefore share their fake values, which a trace for every
match would not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch._inductor import pattern_matcher as pm
from torch._subclasses.fake_tensor import FakeTensorMode

from .peer import Peer, Rewrite, Setting
from .rules import cleanup, rules, undecomposed


class TraceCache:
    """A trace function that traces the same function with the same argument metadata once."""

    def __init__(self) -> None:
        self._traced: dict[Any, fx.GraphModule] = {}

    def clear(self) -> None:
        """Forgets everything: traces hold symbols of one graph and must not outlive it."""
        self._traced.clear()

    def __call__(
        self, fn: Callable[..., Any], args: Sequence[Any], **options: Any
    ) -> fx.GraphModule:
        key = (fn, *(_metadata(arg) for arg in args))
        if key not in self._traced:
            self._traced[key] = pm.fwd_only(fn, args, **options)
        return self._traced[key]


def _metadata(arg: Any) -> Any:
    if not isinstance(arg, torch.Tensor):
        return repr(arg)
    return (*map(str, arg.shape), *map(str, arg.stride()), arg.dtype, arg.device)


def prepare(setting: Setting) -> Rewrite:
    """Registers the rules in one PatternMatcherPass, each with its pattern and a trace cache."""
    matcher = pm.PatternMatcherPass(pass_name="sequence_parallelism_cached_peer")
    cache = TraceCache()
    with FakeTensorMode():
        for rule in rules(setting):
            traced = pm.fwd_only(rule.search, rule.inputs(), **undecomposed(pm.fwd_only))
            names = list(inspect.signature(rule.search).parameters)
            pm.register_replacement(
                rule.search,
                rule.replace,
                rule.inputs(),
                cache,
                matcher,
                search_fn_pattern=pm.fx_to_pattern(traced, argnames=names),
                skip_duplicates=True,
                **undecomposed(pm.register_replacement),
            )

    def rewrite(graph: fx.Graph) -> int:
        cache.clear()
        count = matcher.apply(graph)
        cleanup(graph)
        return count

    return rewrite


PEER = Peer("PatternMatcherPass, trace cached", prepare)
