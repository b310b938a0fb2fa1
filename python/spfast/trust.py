"""A value that is taken to be the same on every rank, because no graph can prove that it is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Assumption"]


@dataclass(frozen=True, order=True)
class Assumption:
    """One full value that meets one rank's rows and is not proved the same on every rank.

    Attributes:
        value: Name of its node, in the graph as it was before the pass.
        reason: Where it meets them, in one sentence.
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
