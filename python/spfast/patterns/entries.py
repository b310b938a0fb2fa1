"""One registration of a registry: what it is known by, and the patterns that it traced to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from spfast.patterns.model import Pattern

__all__ = ["Entry", "Key", "digest_of"]


class Key(NamedTuple):
    """What tells one registration from another."""

    dialect: str
    rule: str
    variant: str


def digest_of(patterns: Sequence[Pattern]) -> str:
    """A hash of patterns: equal patterns have equal hashes in every process."""
    return hashlib.sha256(repr(tuple(patterns)).encode()).hexdigest()


class Entry:
    """The patterns of one registration, and their digest; each is made when first asked for.

    Args:
        patterns: The patterns, or a function that makes them, always the same ones.
        digest: Their :func:`digest_of`, where it is known already.
    """

    __slots__ = ("_digest", "_patterns")

    def __init__(
        self, patterns: tuple[Pattern, ...] | Callable[[], tuple[Pattern, ...]], digest: str = ""
    ) -> None:
        self._patterns = patterns
        self._digest = digest

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """All variants, in order."""
        if not isinstance(self._patterns, tuple):
            self._patterns = self._patterns()
        return self._patterns

    @property
    def digest(self) -> str:
        """The :func:`digest_of` the patterns."""
        if not self._digest:
            self._digest = digest_of(self.patterns)
        return self._digest

    def __reduce__(self) -> tuple[type[Entry], tuple[tuple[Pattern, ...], str]]:
        return Entry, (self.patterns, self._digest)
