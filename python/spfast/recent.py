"""Tells what was done: in the log, in torch's trace, and to callers that ask later."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch._guards import CompileContext, CompileId

from spfast.result import Result

__all__ = ["UNKNOWN", "arrived", "awaited", "expect", "last_results", "tell"]

# This is enough for the graphs of a model. A result is small where no drawing was asked for.
KEPT = 128

_recent: deque[Result] = deque(maxlen=KEPT)
# The compiles that asked a pass for its cache key and have not called it since.
_waiting: WeakKeyDictionary[object, set[CompileId]] = WeakKeyDictionary()

UNKNOWN = (
    "a compile asked for this pass' cache key and has not called it since: its graph came from a "
    "cache, or the compile failed, and what was done to it is not known here; set "
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 to compile it anew"
)

logger = logging.getLogger("spfast")


def last_results() -> tuple[Result, ...]:
    """Returns what the latest calls of :func:`spfast.apply` in this process did, the newest last.

    Those of passes inside torch.compile are among them. A graph that came from a compile cache was
    not rewritten again: the last results say so for each such compile, with a ``note`` alone. At
    most 128 others are kept.

    Example:
        >>> import spfast
        >>> done = spfast.apply(torch.fx.Graph())
        >>> last_results()[-1] is done
        True
    """
    unknown = set[CompileId]().union(*_waiting.values())
    return (*_recent, *(Result(note=UNKNOWN) for _ in unknown))


def expect(asked: object) -> None:
    """Notes that a compile, if one runs, asked a pass for its key; it calls it next, or never."""
    current = CompileContext.current_compile_id()
    if current is not None:
        _waiting.setdefault(asked, set()).add(current)


def arrived(called: object) -> None:
    """Notes that a pass was called, by the compile that runs or by hand."""
    current = CompileContext.current_compile_id()
    if current is None:
        _waiting.pop(called, None)
    else:
        _waiting.get(called, set()).discard(current)


def awaited(asked: object) -> bool:
    """Whether a compile asked for the pass' key and has not called it."""
    return bool(_waiting.get(asked))


def tell(result: Result) -> None:
    """Logs one line a graph: what was asked for, what was done, what was left and why."""
    _recent.append(result)
    asked = result.matched_count + len(result.skipped)
    if not asked and result.async_tp is not None:
        pairs = result.async_tp
        logger.info("async TP: %s, %.3f ms", pairs.summary(), pairs.seconds * 1e3)
    elif logger.isEnabledFor(logging.INFO):
        rules = ", ".join(f"{n} {rule}" for rule, n in sorted(result.by_pattern.items()))
        reasons = Counter(site.reason for site in result.skipped)
        left = "; ".join(f"{n} left: {reason}" for reason, n in reasons.most_common(3))
        logger.info(
            "sequence parallelism: %d all_reduces, %d rewritten%s%s%s%s, %.3f ms",
            asked,
            result.matched_count,
            f" ({rules})" if rules else "",
            f", {left}" if left else "",
            f"; {result.async_tp.summary()}" if result.async_tp is not None else "",
            f"; {result.note}" if result.note else "",
            result.timings.total * 1e3,
        )
    torch_logging: Any = torch._logging
    handlers = torch_logging._internal.trace_log.handlers
    # A record takes longer to make than the rewrite; torch's own handler writes nothing without a
    # folder (TORCH_TRACE).
    if asked and any(getattr(handler, "root_dir", handler) is not None for handler in handlers):
        torch_logging.trace_structured(
            "artifact",
            metadata_fn=lambda: {"name": "spfast_sequence_parallelism", "encoding": "string"},
            payload_fn=lambda: str(result),
        )
