"""What the other graphs of one call say of the values of a graph."""

from __future__ import annotations

from dataclasses import dataclass, fields

from spfast import _core

__all__ = ["Told"]


@dataclass(frozen=True)
class Told:
    """Values and calls of one graph, by their places in it.

    Attributes:
        own: The values that another graph shows to be each rank's own.
        writers: The calls that write such values to what they are given.
        known: The calls of which it is known what they do to memory.
        written: Pairs of a known call and an operand that it writes to.
        shown: Pairs of a known call and an operand whose memory its results may share.

    Example:
        >>> both = Told(own=frozenset({1})) | Told(own=frozenset({2}))
        >>> sorted(both.own)
        [1, 2]
    """

    own: frozenset[int] = frozenset()
    writers: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()
    written: frozenset[tuple[int, int]] = frozenset()
    shown: frozenset[tuple[int, int]] = frozenset()

    def __or__(self, other: Told) -> Told:
        """All that two say."""
        return Told(
            *(getattr(self, each.name) | getattr(other, each.name) for each in fields(self))
        )

    def as_native(self) -> _core.Across:
        """The same as the core takes it."""
        return _core.Across(
            own=sorted(self.own),
            writers=sorted(self.writers),
            known=sorted(self.known),
            written=sorted(self.written),
            shown=sorted(self.shown),
        )
