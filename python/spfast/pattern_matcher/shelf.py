"""What we keep on an object of torch's: it lives as long as the object, and no copy has it.

A pattern or an entry may be copied or pickled at any time, for example because a pass lies in
Inductor's configuration. What is kept here belongs to the one object for which it was made.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Shelf", "shelf_of"]

_NAME = "_spfast"


class Shelf:
    """Attributes that others put here; a copy or a pickle of it is None."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.route: Any = None
        self.twin: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def shelf_of(owner: Any) -> Shelf:
    """The shelf on an object, made the first time that it is asked for."""
    found = vars(owner).get(_NAME)
    # A shallow copy brings the shelf of its original along.
    if type(found) is not Shelf or found.owner is not owner:
        found = Shelf(owner)
        setattr(owner, _NAME, found)
    return found
