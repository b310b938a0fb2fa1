"""A value that is taken to be the same on every rank, because no graph can prove that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Assumption", "names_of"]


@dataclass(frozen=True, order=True)
class Assumption:
    """One full value that meets one rank's rows and is not proved the same on every rank.

    Attributes:
        value: Name of its node, in the graph as it was before the pass.
        reason: Where it meets those rows, in one sentence.
        group: Name of the group on whose ranks it has to be the same; empty where that is plain.

    Example:
        >>> str(Assumption("weight", "is read whole beside the rows of 'norm'"))
        "weight: is read whole beside the rows of 'norm'"
    """

    value: str
    reason: str = ""
    group: str = ""

    def __str__(self) -> str:
        return f"{self.value}: {self.reason}"


# So many values are named, and the rest are only counted: a model has a weight for each norm.
_NAMED = 8


def names_of(assumptions: Sequence[Assumption]) -> str:
    """The values in one line: the first few by name, the others by their number.

    Example:
        >>> names_of([Assumption("x"), Assumption("weight")])
        'x, weight'
    """
    names = ", ".join(each.value for each in assumptions[:_NAMED])
    more = len(assumptions) - _NAMED
    return f"{names} and {more} more" if more > 0 else names
