"""Inductor as a host: the pass on every graph it compiles, the matcher behind its own passes.

:func:`enable` switches on the first. The second is for code that cannot change its import: set
``SPFAST_PATTERN_MATCHER=1`` and import this module, or use :func:`patched`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch._inductor.pattern_matcher as stock

from spfast.integrations import quick
from spfast.integrations.training import Enabled, enable
from spfast.pattern_matcher.engine import run

__all__ = ["Enabled", "enable", "install", "patched"]

ENVIRONMENT_SWITCH = "SPFAST_PATTERN_MATCHER"


def _apply(self: stock.PatternMatcherPass, gm: Any) -> int:
    return run(self, gm)


def install() -> None:
    """Puts the matcher behind every pass of ``torch._inductor`` for the rest of the process."""
    stock.PatternMatcherPass.apply = _apply  # type: ignore[method-assign]
    quick.install()


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Puts the matcher behind every pass of ``torch._inductor`` while the context lasts.

    Patterns that were registered before are served too: what torch's entries traced for each match
    is traced once for each distinct metadata.

    Example:
        >>> import torch._inductor.pattern_matcher as stock
        >>> before = stock.PatternMatcherPass.apply
        >>> with patched():
        ...     changed = stock.PatternMatcherPass.apply is not before
        >>> changed, stock.PatternMatcherPass.apply is before
        (True, True)
    """
    before = stock.PatternMatcherPass.apply
    stock.PatternMatcherPass.apply = _apply  # type: ignore[method-assign]
    quick_before = quick.install()
    try:
        yield
    finally:
        quick.put_back(quick_before)
        stock.PatternMatcherPass.apply = before  # type: ignore[method-assign]


if os.environ.get(ENVIRONMENT_SWITCH) == "1":
    install()
