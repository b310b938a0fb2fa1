"""Whether a pair is worth fusing: its shape against the table of thresholds."""

from __future__ import annotations

import functools
from typing import Any

import torch

from spfast.config import SequenceParallelConfig
from spfast.thresholds import DeviceKind, pair_obstacle

__all__ = ["not_worth"]


def not_worth(
    config: SequenceParallelConfig, operand: torch.Tensor, tokens: Any, features: Any
) -> str:
    """Why a collective is not worth hiding; empty where it is.

    Args:
        config: Has the thresholds, and may name the device.
        operand: What the product multiplies: its dtype and, where the config names none, its device
            count.
        tokens: Rows that are gathered or scattered, over all ranks.
        features: Features of the stream.
    """
    if not config.async_tp_thresholds:
        return ""
    kind = _kind(config.device if config.device is not None else operand.device)
    if kind is None:
        return ""
    least, width = _least(tokens), _least(features)
    return pair_obstacle(kind, operand.itemsize, least, width, config.async_tp_thresholds)


@functools.lru_cache(maxsize=16)
def _kind(device: str | torch.device) -> DeviceKind | None:
    return DeviceKind.parse(device)


def _least(size: Any) -> int:
    """A size, the least that a symbolic one can be where that says anything, or its example."""
    if isinstance(size, int):
        return size
    env, expression = size.node.shape_env, size.node.expr
    lower = env.bound_sympy(expression).lower
    if lower.is_Integer and int(lower) > 2:  # 0, 1 and 2 are what every symbol begins with
        return int(lower)
    return int(size.node.hint) if size.node.hint is not None else 0
