"""What is proved of memory that a graph writes to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx

from spfast.reference.values import Memory

__all__ = ["EVERY", "Written"]

EVERY: Any = object()  # in place of groups: whatever the group


class Written:
    """The groups over which what was written is not proved to be the same.

    Args:
        memory: Who writes to what.
        known: The groups that the graph's collectives name.
    """

    def __init__(self, memory: Memory, known: Collection[Any]) -> None:
        self._memory, self._known = memory, frozenset(known)
        self._unproved: dict[fx.Node, set[Any]] = {}

    def note(self, node: fx.Node, shared: Any) -> None:
        """Notes that what a node writes is the same over the groups of ``shared`` alone."""
        unproved = self._known.difference(self._known if shared is EVERY else shared)
        for storage in self._memory.storages_written_by(node):
            self._unproved.setdefault(storage, set()).update(unproved)

    def left(self, value: fx.Node, shared: Any) -> Any:
        """The groups over which a value is still shared after the writes to its memory."""
        storage = self._memory.written_storage(value)
        unproved = self._unproved.get(storage) if storage is not None else None
        return (self._known if shared is EVERY else shared) - unproved if unproved else shared
