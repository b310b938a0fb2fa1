"""What a run would do to a graph, which is not changed."""

from __future__ import annotations

from dataclasses import dataclass

from spfast.pairs import AsyncTP
from spfast.result import Merged
from spfast.run.run import Report
from spfast.trust import Assumption

__all__ = ["Outlook"]


@dataclass(frozen=True)
class Outlook:
    """What :func:`spfast.apply` would do.

    Attributes:
        reports: One for each all_reduce, in graph order.
        assumptions: What would be taken to be the same on every rank.
        plan: Every edit, one a line.
        merged: The reductions that would be merged.
        totals: The sums over tokens that each rank would compute of its own rows.
        note: What is wrong with the graph, where it has no all_reduces.
        async_tp: The pairs that would be fused then; None where that is not asked for.
        padded: The numbers of tokens that would be padded, each with what it becomes.
    """

    reports: tuple[Report, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    plan: str = ""
    merged: tuple[Merged, ...] = ()
    totals: tuple[str, ...] = ()
    note: str = ""
    async_tp: AsyncTP | None = None
    padded: tuple[str, ...] = ()
