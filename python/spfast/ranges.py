"""Ranges of token counts."""

from __future__ import annotations

from dataclasses import dataclass

from spfast.base.fields import check_int
from spfast.errors import ConfigError

__all__ = ["Range"]


@dataclass(frozen=True)
class Range:
    """A range of token counts that one graph is compiled for, both ends included.

    Attributes:
        start: The smallest token count.
        end: The largest.

    Raises:
        ConfigError: An end is not a whole number, is negative, or lies before the start.

    Example:
        >>> Range(1024, 8192).is_single_size()
        False
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            check_int(f"Range.{name}", getattr(self, name), minimum=0)
        if self.end < self.start:
            raise ConfigError(
                f"Range({self.start}, {self.end}) ends before it starts: "
                f"pass Range({self.end}, {self.start}) or correct one end"
            )

    def is_single_size(self) -> bool:
        """Says whether the range holds exactly one token count."""
        return self.start == self.end

    def __contains__(self, tokens: object) -> bool:
        return isinstance(tokens, int) and self.start <= tokens <= self.end

    def __str__(self) -> str:
        return f"[{self.start}, {self.end}]"
