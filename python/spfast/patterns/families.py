"""How collectives are spelled, and the dialects that spell them: data, as ``model`` is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CollectiveFamily", "Dialect"]


@dataclass(frozen=True)
class CollectiveFamily:
    """How one family of collectives is spelled: what an all_reduce of it becomes.

    Attributes:
        name: for people.
        all_reduce: its operator.
        wait: the operator that yields the value; ``None``: the all_reduce itself does.
        reduce_op: position of the reduce op among the all_reduce's arguments; -1: always a sum.
        group: position of the group.
        reduce_scatter: its operator.
        reduce_scatter_args: ``"input"``, ``"world_size"``, ``"group"``, ``"reduce_op"`` or an int.
        all_gather: its operator.
        all_gather_args: likewise.
    """

    name: str
    all_reduce: str
    wait: str | None
    reduce_op: int
    group: int
    reduce_scatter: str
    reduce_scatter_args: tuple[str | int, ...]
    all_gather: str
    all_gather_args: tuple[str | int, ...]


@dataclass(frozen=True)
class Dialect:
    """A way to write tensor-parallel models: the collectives, under one name.

    Attributes:
        name: what rules are registered under.
        families: its collectives; dialects may share them.
    """

    name: str
    families: tuple[CollectiveFamily, ...] = ()
