"""For which ranges of token counts the pass is worth running, and why."""

from __future__ import annotations

from dataclasses import dataclass

from spfast.base.fields import as_dtype
from spfast.config import SequenceParallelConfig
from spfast.errors import ConfigError
from spfast.ranges import Range
from spfast.thresholds import DeviceKind, threshold_tokens

__all__ = ["Applicability", "applicability", "minimum_tokens", "split_applicability"]


@dataclass(frozen=True)
class Applicability:
    """Whether the pass is worth running on a range, and why.

    Attributes:
        applicable: The answer; also what ``bool()`` gives.
        reason: One sentence that names the values that decided.
    """

    applicable: bool
    reason: str

    def __bool__(self) -> bool:
        return self.applicable

    def __str__(self) -> str:
        return f"{'applicable' if self.applicable else 'not applicable'}: {self.reason}"


def minimum_tokens(config: SequenceParallelConfig) -> tuple[int | None, str]:
    """Looks up the smallest token count for which the pass is worth it.

    Args:
        config: The configuration; an explicit ``min_token_num`` wins over its thresholds.

    Returns:
        The token count and where it comes from, or None and what was missing.

    Raises:
        ConfigError: The threshold depends on ``tp_size`` and it is not given.

    Example:
        >>> minimum_tokens(SequenceParallelConfig(min_token_num=512))
        (512, 'min_token_num=512')
    """
    if config.min_token_num is not None:
        tokens, reason = config.min_token_num, f"min_token_num={config.min_token_num}"
    else:
        missing = [name for name in ("hidden_size", "dtype") if getattr(config, name) is None]
        if missing:
            return None, f"min_token_num is not given, nor is {' or '.join(missing)} to derive it"
        assert config.hidden_size is not None
        found, reason = threshold_tokens(
            config.hidden_size,
            _element_size(config),
            _need_tp_size(config, "the threshold depends on it"),
            DeviceKind.parse(config.device),
            config.thresholds,
        )
        if found is None:
            return None, reason
        tokens = found
    cap = config.max_num_batched_tokens
    if cap is not None and cap < tokens:
        return cap, f"max_num_batched_tokens={cap}, which caps {tokens} ({reason})"
    return tokens, reason


def applicability(config: SequenceParallelConfig, range: Range) -> Applicability:
    """Decides whether the pass is worth running on graphs compiled for ``range``.

    In a host that splits the graph into pieces, the residual would change its shape at each border.
    Only a single size that all ranks can share evenly is safe there.

    Args:
        config: The configuration.
        range: The token counts that the graph is compiled for.

    Returns:
        The decision with its reason.

    Raises:
        ConfigError: The decision depends on ``tp_size`` and it is not given.

    Example:
        >>> config = SequenceParallelConfig(tp_size=8, min_token_num=1024)
        >>> bool(applicability(config, Range(1024, 8192)))
        True
        >>> str(applicability(config, Range(1, 1023)))
        'not applicable: range [1, 1023] starts below 1024 tokens (min_token_num=1024)'
    """
    refused = split_applicability(config, range)
    if refused is not None:
        return refused
    tokens, reason = minimum_tokens(config)
    if tokens is None:
        return Applicability(False, reason)
    if range.start < tokens:
        return Applicability(False, f"range {range} starts below {tokens} tokens ({reason})")
    return Applicability(True, f"range {range} starts at or above {tokens} tokens ({reason})")


def split_applicability(config: SequenceParallelConfig, range: Range) -> Applicability | None:
    """Why graphs of ``range`` must stay because the host splits them; None where they may change.

    Example:
        >>> split_applicability(SequenceParallelConfig(), Range(1, 8))
    """
    if config.splitting_ops and not config.use_inductor_graph_partition:
        if not range.is_single_size():
            return Applicability(
                False,
                f"splitting_ops cuts the graph into pieces, and range {range} is not one size",
            )
        tp_size = _need_tp_size(config, "splitting_ops is set")
        if range.end % tp_size:
            return Applicability(
                False,
                f"splitting_ops cuts the graph into pieces, and {range.end} tokens are not a "
                f"multiple of tp_size={tp_size}",
            )
    return None


def _need_tp_size(config: SequenceParallelConfig, why: str) -> int:
    if config.tp_size is not None:
        return config.tp_size
    given = dict(config.groups)
    if config.group_name is not None:
        given = {name: pair for name, pair in given.items() if name == config.group_name}
    sizes = {size for size, _ in given.values()}
    if len(sizes) != 1:
        raise ConfigError(f"tp_size is not given, and {why}: pass tp_size")
    return sizes.pop()


def _element_size(config: SequenceParallelConfig) -> int:
    assert config.dtype is not None
    return as_dtype(config.dtype).itemsize
