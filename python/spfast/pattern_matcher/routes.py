"""What a pass tells of its patterns: which are matched natively, which are not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch._inductor.pattern_matcher as stock

from spfast.pattern_matcher.adopt import adopt
from spfast.pattern_matcher.entry import ReplacementEntry

__all__ = ["describe"]


def _entries(rules: stock.PatternMatcherPass) -> Iterator[Any]:
    seen: set[int] = set()
    for entries in rules.patterns.values():
        for entry in entries:
            if id(entry) not in seen:
                seen.add(id(entry))
                yield adopt(entry)


def describe(rules: stock.PatternMatcherPass) -> str:
    """One line a pattern: its name, how it is matched, how its matches are checked."""
    lines = [f"pass {rules.pass_name or 'pattern_matcher'}"]
    for entry in _entries(rules):
        if isinstance(entry, ReplacementEntry):
            lines.append(f"  {entry.spec.name}: {entry.variants.describe()}")
        else:
            lines.append(f"  {entry.pattern!r}: {type(entry).__name__}")
    return "\n".join(lines)
