"""The ranks that a program runs on: a line, or a mesh of two axes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Ranks on a mesh of ``dp`` rows and ``tp`` columns.

    Group "tp" joins the ranks of a row, "dp" those of a column, "all" everyone.
    """

    tp: int = 2
    dp: int = 1

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.tp * self.dp

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that have more than one place."""
        return ("tp", "dp") if self.dp > 1 else ("tp",)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups that a graph may use."""
        return ("tp", "dp", "all") if self.dp > 1 else ("tp",)

    def coordinate(self, rank: int, axis: str) -> int:
        """Where a rank stands along an axis."""
        return rank % self.tp if axis == "tp" else rank // self.tp

    def members(self, group: str, rank: int) -> tuple[int, ...]:
        """The ranks of the group of this name that ``rank`` is in, in order."""
        if group == "tp":
            return tuple(each for each in range(self.size) if each // self.tp == rank // self.tp)
        if group == "dp":
            return tuple(each for each in range(self.size) if each % self.tp == rank % self.tp)
        if group == "all":
            return tuple(range(self.size))
        raise ValueError(f"no group is called {group!r}: {self.groups}")

    def group_size(self, group: str) -> int:
        """The number of ranks in a group."""
        return len(self.members(group, 0))
