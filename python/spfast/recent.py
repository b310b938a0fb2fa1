"""Tells what was done: to the log, to torch's trace, and to whoever asks later."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Any

import torch

from spfast.result import Result

__all__ = ["last_results", "tell"]

# A model's worth of graphs; a result is small where no drawing was asked for.
KEPT = 128

_recent: deque[Result] = deque(maxlen=KEPT)

logger = logging.getLogger("spfast")


def last_results() -> tuple[Result, ...]:
    """Returns what the latest calls of :func:`spfast.apply` in this process did, the newest last.

    Those of passes inside torch.compile are among them; a graph that came from a compile cache was
    not rewritten again, so that none is there for it. At most 128 are kept.

    Example:
        >>> import spfast
        >>> done = spfast.apply(torch.fx.Graph())
        >>> last_results()[-1] is done
        True
    """
    return tuple(_recent)


def tell(result: Result) -> None:
    """One line a graph: what was asked for, what was done, what was left and why."""
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
