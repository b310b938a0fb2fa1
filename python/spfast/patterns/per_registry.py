"""What is made of a registry, and kept as long as its rules do not change."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from spfast.patterns import Registry

__all__ = ["PerRegistry"]

Made = TypeVar("Made")


class PerRegistry(Generic[Made]):
    """One thing for each registry that lives; made anew when the registry's rules changed.

    Args:
        make: Makes the thing from a registry. The thing must not hold the registry, or neither is
            ever freed.

    Example:
        >>> from spfast.patterns import default_registry
        >>> sizes = PerRegistry(lambda registry: [len(registry.families())])
        >>> sizes(default_registry()) is sizes(default_registry())
        True
    """

    def __init__(self, make: Callable[[Registry], Made]) -> None:
        self._make = make
        self._made: weakref.WeakKeyDictionary[Registry, tuple[int, Made]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self, registry: Registry) -> Made:
        """What was made of a registry."""
        found = self._made.get(registry)
        if found is None or found[0] != registry.version:
            found = self._made[registry] = (registry.version, self._make(registry))
        return found[1]
