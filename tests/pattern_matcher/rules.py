"""Passes of one replacement rule, and graphs to apply them to: what several test files share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pattern_matcher.graphs import Inputs, trace

aten = torch.ops.aten


def register_add_relu(pm: Any, matcher: Any, **options: Any) -> Any:
    """Has a module register relu(x + y) -> sigmoid(x * y) with a pass; returns the pass."""
    with Inputs().mode:
        pm.register_replacement(
            lambda x, y: aten.relu(aten.add(x, y)),
            lambda x, y: aten.sigmoid(aten.mul(x, y)),
            [torch.empty(2, 3), torch.empty(2, 3)],
            pm.fwd_only,
            matcher,
            **options,
        )
    return matcher


def rule(
    search: Any,
    replace: Any,
    *inputs: Any,
    again: int = 1,
    raises: type[Exception] | None = None,
    trace_fn: str = "fwd_only",
    **options: Any,
) -> Any:
    """A pass with one rule, registered under fake tensors; ``inputs`` are shapes or tensors."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("rule")
        chosen = {k: v(pm, spy) if k in _MADE else v for k, v in options.items()}
        with Inputs().mode:
            examples = [
                torch.empty(i) if isinstance(i, tuple) else i() if callable(i) else i
                for i in inputs
            ]
            for _ in range(again):
                returned = pm.register_replacement(
                    search, replace, examples, getattr(pm, trace_fn), matcher, **chosen
                )
                spy.note(bool(returned))
        spy.note(sorted(str(key) for key in matcher.patterns), len(matcher.seen_patterns))
        return matcher

    return define


_MADE = ("extra_check", "search_fn_pattern", "get_decomp_fn")


def add_relu(x: Any, y: Any) -> Any:
    return aten.relu(aten.add(x, y))


def mul_sigmoid(x: Any, y: Any) -> Any:
    return aten.sigmoid(aten.mul(x, y))


def pair(dynamic: bool, *shape: int | str) -> Any:
    def inputs() -> list[Any]:
        make = Inputs(s=6) if dynamic else Inputs()
        sizes = shape or (("s", 8) if dynamic else (6, 8))
        first = [make.sizes["s"]] if dynamic else []
        return [*first, make.tensor(*sizes), make.tensor(*sizes)]

    return inputs


def graph_of(model: Any, dynamic: bool, *shape: int | str) -> Any:
    """Builds the graph of ``model(x, y)``; a dynamic one has its size as the first input."""

    def build() -> Any:
        inputs = pair(dynamic, *shape)()
        if dynamic:
            return trace(lambda s, x, y: model(x, y), *inputs)
        return trace(model, *inputs)

    return build


both = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
