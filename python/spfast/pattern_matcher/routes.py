"""The description of a pass: which of its patterns are matched natively, which are not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch._inductor.pattern_matcher as stock

from spfast.pattern_matcher.adopt import adopt
from spfast.pattern_matcher.entry import ReplacementEntry
from spfast.pattern_matcher.lowering import route_of

__all__ = ["describe"]


def _entries(rules: stock.PatternMatcherPass) -> Iterator[Any]:
    seen: set[int] = set()
    for entries in rules.patterns.values():
        for entry in entries:
            if id(entry) not in seen:
                seen.add(id(entry))
                yield adopt(entry)


def describe(rules: stock.PatternMatcherPass) -> str:
    """One line a pattern: its name, how it is matched, how its matches are checked and replaced."""
    entries = list(_entries(rules))
    native = sum(route_of(entry.pattern).program is not None for entry in entries)
    name = rules.pass_name or "pattern_matcher"
    lines = [f"{name}: {len(entries)} patterns, {native} matched natively"]
    for entry in entries:
        route = route_of(entry.pattern)
        way = "native" if route.program is not None else f"torch's object ({route.reason})"
        if route.unknown:
            way += f", {route.unknown} candidates judged by torch's object"
        if isinstance(entry, ReplacementEntry):
            lines.append(f"  {entry.spec.name}: {way}; {entry.variants.describe()}")
        else:
            lines.append(f"  {_title(entry)}: {way}; {type(entry).__name__}, {_check_of(entry)}")
    return "\n".join(lines)


def _title(entry: Any) -> str:
    handler = getattr(entry, "handler", None)
    return str(getattr(handler, "__name__", None) or "a pattern")


def _check_of(entry: Any) -> str:
    if isinstance(entry, stock.GraphPatternEntry):
        return "a handler rewrites each match"
    if isinstance(entry, stock.LoweringPatternEntry):
        return "each match is lowered later"
    return "torch's entry checks and replaces each match"
