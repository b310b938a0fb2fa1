"""Families of collectives and dialects, as data like that of ``model``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CollectiveFamily", "Dialect"]


@dataclass(frozen=True)
class CollectiveFamily:
    """How one family of collectives is spelled: what an all_reduce of it becomes.

    Attributes:
        name: for people.
        all_reduce: its operator.
        wait: the operator that waits for the value and yields it; ``None``: the all_reduce itself
            yields the value.
        reduce_op: position of the reduce op among the all_reduce's arguments; -1: always a sum.
        group: position of the group among the all_reduce's arguments; ``None``: it has no such
            argument, and reduces over the group of the config.
        reduce_scatter: its operator.
        reduce_scatter_args: ``"input"``, ``"world_size"``, ``"group"``, ``"reduce_op"`` or an int.
        all_gather: its operator.
        all_gather_args: likewise.
        in_place: the operator that writes the sum to its argument and returns it, with the
            arguments of ``all_reduce``; ``None``: there is none.
        coalesced: the operator that reduces a list of tensors and returns a list of them, with the
            arguments of ``all_reduce`` but for the first.
        coalesced_in_place: the operator that reduces a list of tensors in place.
    """

    name: str
    all_reduce: str
    wait: str | None
    reduce_op: int
    group: int | None
    reduce_scatter: str
    reduce_scatter_args: tuple[str | int, ...]
    all_gather: str
    all_gather_args: tuple[str | int, ...]
    in_place: str | None = None
    coalesced: str | None = None
    coalesced_in_place: str | None = None


@dataclass(frozen=True)
class Dialect:
    """A way to write tensor-parallel models: the collectives, under one name.

    Attributes:
        name: what rules are registered under.
        families: its collectives; dialects may share them.
    """

    name: str
    families: tuple[CollectiveFamily, ...] = ()
