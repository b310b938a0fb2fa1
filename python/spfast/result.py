"""What a run of the pass returns: what was rewritten, what was left and why, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spfast.base.fields import said
from spfast.errors import ConfigError
from spfast.pairs import AsyncTP
from spfast.trust import Assumption, names_of

if TYPE_CHECKING:
    import os

    from spfast.report import Drawing

__all__ = ["Merged", "Result", "SkippedSite", "Timings"]


def of_parts(names: tuple[str, ...], verbose: bool = False) -> str:
    """One line on sums over tokens; of many, the first three are named."""
    shown = names if verbose or len(names) <= 4 else names[:3]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    listed = ", ".join(f"%{name}" for name in shown)
    return (
        f"{listed}{more}: each rank sums its own rows, and an all_reduce of the parts finishes it"
    )


def of_padding(padded: tuple[str, ...]) -> str:
    """One line on numbers of tokens that are padded."""
    each = ", ".join(dict.fromkeys(padded))
    return f"padded in the graph: {each}; a host that pads its batches does it once"


@dataclass(frozen=True)
class Merged:
    """A reduction that does the work of several.

    Attributes:
        node: The reduction that is left, by its name in the graph.
        gone: The reductions whose work it does besides its own, by the names that they had.
    """

    node: str
    gone: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.node} reduces the sum of what it and {', '.join(self.gone)} reduced"


@dataclass(frozen=True)
class SkippedSite:
    """An all_reduce that was left exactly as it was.

    Attributes:
        node: Its name in the graph.
        reason: Why, in one sentence.
        nearest: The nearest rule with its first mismatch; empty where a rule matched.
    """

    node: str
    reason: str
    nearest: str = ""

    def __str__(self) -> str:
        nearest = f" (nearest: {self.nearest})" if self.nearest else ""
        return f"{self.node}: {self.reason}{nearest}"


@dataclass(frozen=True)
class Timings:
    """Seconds spent in each stage.

    Attributes:
        encode: Reading the graph into the node table.
        match: Running the compiled patterns.
        plan: Deciding what every value becomes.
        commit: Creating, rewiring and erasing nodes.
        meta: Making ``meta["val"]`` of new and resized nodes.
        total: The whole call, with what lies between the stages.
    """

    encode: float = 0.0
    match: float = 0.0
    plan: float = 0.0
    commit: float = 0.0
    meta: float = 0.0
    total: float = 0.0

    def stages(self) -> dict[str, float]:
        """Returns seconds by stage and in between them: they add up to the total.

        Example:
            >>> Timings(encode=0.25, meta=0.25, total=1.0).stages()["in between"]
            0.5
        """
        found = {name: seconds for name, seconds in asdict(self).items() if name != "total"}
        return {**found, "in between": self.total - sum(found.values())}


@dataclass(frozen=True)
class Result:
    """What one run did to one graph.

    Attributes:
        matched_count: Sites that were rewritten; also what ``int()`` gives.
        by_pattern: The same, by the rule's name.
        skipped: The all_reduces that stayed, in graph order, each with its reason.
        timings: Seconds by stage.
        assumptions: The values that meet one rank's rows and are not proved to be the same on every
            rank, in graph order. The rewrite is right if they are the same.
        plan: Every edit that was made, one a line; empty unless it was asked for.
        merged: The reductions that were merged because only their sum was read; the sites are
            counted afterwards.
        note: Why nothing can be said, where the graph, or what became of it, is not known. Else
            empty.
        totals: The sums over tokens, by name, that each rank computes of its own rows: an
            all_reduce of the ranks' parts finishes each.
        async_tp: The collectives that were fused with the matrix products beside them, and those
            that were left, each with its reason; None where that was not asked for.
        padded: The numbers of tokens that are padded (``divisibility="pad"``), each with what it
            becomes, such as "9 tokens to 12".
        drawing: Both states of the graph, for :meth:`report`; None unless the plan was asked for.

    Example:
        >>> int(Result(matched_count=2, by_pattern={"middle": 2}))
        2
    """

    matched_count: int = 0
    by_pattern: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[SkippedSite, ...] = ()
    timings: Timings = field(default=Timings(), compare=False)
    assumptions: tuple[Assumption, ...] = ()
    plan: str = field(default="", compare=False, repr=False)
    merged: tuple[Merged, ...] = ()
    drawing: Drawing | None = field(default=None, compare=False, repr=False)
    note: str = ""
    totals: tuple[str, ...] = ()
    async_tp: AsyncTP | None = None
    padded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_pattern", MappingProxyType(dict(self.by_pattern)))

    def __int__(self) -> int:
        return self.matched_count

    def __repr__(self) -> str:
        return f"Result({said(self)})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain data (numbers, strings, lists, dicts) that JSON takes.

        All but the plan and the drawing: one row of a table of results.

        Example:
            >>> Result(skipped=(SkippedSite("all_reduce", "no rule matches"),)).to_dict()["skipped"]
            [{'node': 'all_reduce', 'reason': 'no rule matches', 'nearest': ''}]
        """
        return {
            "matched_count": self.matched_count,
            "skipped_count": len(self.skipped),
            "by_pattern": dict(self.by_pattern),
            "skipped": [asdict(site) for site in self.skipped],
            "timings": asdict(self.timings),
            "assumptions": [asdict(each) for each in self.assumptions],
            "note": self.note,
            "merged": [{"node": each.node, "gone": list(each.gone)} for each in self.merged],
            "totals": list(self.totals),
            "async_tp": None if self.async_tp is None else self.async_tp.to_dict(),
            "padded": list(self.padded),
        }

    def report(self, path: str | os.PathLike[str], title: str = "spfast") -> None:
        """Writes a page that shows the graph before and after, and why each site is what it is.

        One self-contained HTML file, for a browser without a network.

        Args:
            path: The file; one that is there is replaced.
            title: What the page is called.

        Raises:
            ConfigError: The graph was not taken down: ``apply`` does it with ``record_plan=True``.
            OSError: The file cannot be written.

        Example:
            >>> try:
            ...     Result().report("page.html")
            ... except ConfigError as error:
            ...     print(error)
            this result has no drawing of its graph: call apply with record_plan=True
        """
        if self.drawing is None:
            raise ConfigError(
                "this result has no drawing of its graph: call apply with record_plan=True"
            )
        from spfast.report.page import write_page

        write_page(self.drawing, path, title)

    def __reduce__(self) -> tuple[object, ...]:
        fields = (
            self.matched_count,
            dict(self.by_pattern),
            self.skipped,
            self.timings,
            self.assumptions,
            self.plan,
            self.merged,
            self.drawing,
            self.note,
            self.totals,
            self.async_tp,
            self.padded,
        )
        return (Result, fields)

    def __str__(self) -> str:
        lines = [f"note: {self.note}"] if self.note else []
        if self.matched_count or self.skipped or not self.note:
            lines.insert(0, f"{self.matched_count} sites rewritten, {len(self.skipped)} left")
        lines += [f"  {count} {rule}" for rule, count in sorted(self.by_pattern.items())]
        lines += [f"  left {site}" for site in self.skipped]
        lines += [f"  merged: {each}" for each in self.merged]
        lines += [f"  {of_parts(self.totals)}"] if self.totals else []
        lines += [f"  {of_padding(self.padded)}"] if self.padded else []
        if self.async_tp is not None:
            lines += str(self.async_tp).splitlines()
        if self.assumptions:
            lines.append(f"  taken to be the same on every rank: {names_of(self.assumptions)}")
        return "\n".join(lines)
