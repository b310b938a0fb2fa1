"""Log lines about the pass for users, from a logger below vLLM's own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spfast._core import version
from spfast.integrations.vllm.hosts import vllm_version

if TYPE_CHECKING:
    from spfast.config import SequenceParallelConfig
    from spfast.result import Result

__all__ = ["fused", "off", "on", "rewritten"]

logger = logging.getLogger("vllm.spfast")

_said: set[str] = set()


def on(config: SequenceParallelConfig, ends: Sequence[int]) -> None:
    """Says that the pass will run, from how many tokens on, and which ranges are compiled."""
    _once(logging.INFO, f"{_where()}: on, {_extent(config, ends)}")


def off(reason: object) -> None:
    """Says why the pass will not run, and what to change."""
    _once(logging.WARNING, f"{_where()}: off, because {reason}")


def rewritten(
    config: SequenceParallelConfig, ends: Sequence[int], tokens: str, result: Result
) -> None:
    """Says what the pass did to the graph of one range."""
    reasons = Counter(site.reason for site in result.skipped)
    left = "".join(f"; {count} left: {reason}" for reason, count in reasons.most_common(3))
    logger.info(
        "%s: %d of %d all_reduces rewritten in the graph for %s tokens, %s%s%s",
        _where(),
        result.matched_count,
        result.matched_count + len(result.skipped),
        tokens,
        _extent(config, ends),
        left,
        f"; {result.async_tp.summary()}" if result.async_tp is not None else "",
    )


def fused(tokens: str, result: Result) -> None:
    """Says what the pass that only fuses did to the graph of one range."""
    if result.async_tp is not None and (result.async_tp.fused or result.async_tp.left):
        logger.info(
            "%s: %s in the graph for %s tokens", _where(), result.async_tp.summary(), tokens
        )


def _where() -> str:
    return f"spfast {version} in vLLM {vllm_version()}"


def _extent(config: SequenceParallelConfig, ends: Sequence[int]) -> str:
    from spfast.applicability import minimum_tokens

    tokens, reason = minimum_tokens(config)
    starts = [1, *(end + 1 for end in ends)]
    ranges = ", ".join(f"[{start}, {end}]" for start, end in zip(starts, ends, strict=False))
    return f"tp_size {config.tp_size}, from {tokens} tokens on ({reason}), ranges {ranges}"


def _once(level: int, line: str) -> None:
    if line not in _said:
        _said.add(line)
        logger.log(level, "%s", line)
