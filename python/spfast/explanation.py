"""Why each all_reduce of a graph is rewritten, or why not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import fx

from spfast.api import plan_graph
from spfast.config import Recognise, SequenceParallelConfig, as_config
from spfast.patterns import Registry
from spfast.result import Merged
from spfast.trust import Assumption, names_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Entry", "Explanation", "explain"]

# Each by itself.
RECOGNISERS: tuple[Recognise, ...] = ("patterns", "rowwise")


@dataclass(frozen=True)
class Entry:
    """One all_reduce.

    Attributes:
        node: Its name.
        rewritten: Whether the pass rewrites it.
        rule: The rule that matches; empty where none does.
        reason: Why it stays; where it is rewritten, why it is gathered before a quantisation that
            could have come first, and empty where nothing is.
        nearest: Where no rule matches, the nearest one with its first mismatch: the node, what was
            expected there and what was found.
        patterns: What the patterns alone would do with it.
        rowwise: What the row-wise recogniser alone would do with it.
    """

    node: str
    rewritten: bool
    rule: str = ""
    reason: str = ""
    nearest: str = ""
    patterns: str = ""
    rowwise: str = ""

    @property
    def outcome(self) -> str:
        """What becomes of it, and why."""
        if self.rewritten:
            short = f", but gathered early: {self.reason}" if self.reason else ""
            return f"rewritten by {self.rule}{short}"
        matched = f" (matches {self.rule})" if self.rule else ""
        return f"left{matched}: {self.reason}"

    def __str__(self) -> str:
        lines = [f"%{self.node}: {self.outcome}"]
        if self.nearest and not self.rewritten:
            lines.append(f"nearest: {self.nearest}")
        # Told apart where the recognisers do not agree.
        if _is_done(self.patterns) != _is_done(self.rowwise):
            lines += [f"patterns alone: {self.patterns}", f"row-wise alone: {self.rowwise}"]
        return "\n    ".join(lines)


@dataclass(frozen=True)
class Explanation:
    """The entries of one graph, in graph order.

    Attributes:
        entries: One for each all_reduce.
        plan: Every edit that the pass would make, one a line.
        assumptions: The values that would be taken to be the same on every rank.
        merged: The reductions that would be merged first, because only their sum is read.
        note: Where there is no all_reduce because the graph is of another level than ATen's, what
            to pass instead.
    """

    entries: tuple[Entry, ...]
    plan: str = ""
    assumptions: tuple[Assumption, ...] = ()
    merged: tuple[Merged, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the explanation as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        done = sum(entry.rewritten for entry in self.entries)
        head = f"{len(self.entries)} all_reduces, {done} rewritten"
        if self.note:
            head = f"note: {self.note}"
        lines = [head, *(f"  merged first: {each}" for each in self.merged)]
        lines += [f"  {entry}" for entry in self.entries]
        if self.entries:
            patterns = sum(_is_done(entry.patterns) for entry in self.entries)
            rowwise = sum(_is_done(entry.rowwise) for entry in self.entries)
            lines.append(f"patterns alone rewrite {patterns}, the row-wise recogniser {rowwise}")
        if self.assumptions:
            lines.append(f"taken to be the same on every rank: {names_of(self.assumptions)}")
        return "\n".join(lines)


def _is_done(outcome: str) -> bool:
    return outcome.startswith("rewritten")


def explain(
    graph: fx.Graph | fx.GraphModule | ExportedProgram,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> Explanation:
    """Says for every all_reduce what :func:`spfast.apply` would do with it, and why.

    Beside it, what each recogniser would do alone.

    Args:
        graph: The graph; it is not changed.
        config: As for :func:`spfast.apply`.
        registry: As for :func:`spfast.apply`.

    Raises:
        GraphError: ``graph`` is not a graph, or is not well formed.
        ConfigError: A process group cannot be looked up.

    Example:
        >>> print(explain(fx.Graph()))
        0 all_reduces, 0 rewritten
    """
    config = as_config(config)
    views = {
        recognise: plan_graph(graph, replace(config, recognise=recognise), registry=registry)
        for recognise in {config.recognise: None, **dict.fromkeys(RECOGNISERS)}
    }
    whole = views[config.recognise]
    patterns, rowwise = (views[alone].reports for alone in RECOGNISERS)
    entries = [
        replace(
            Entry(*report),
            patterns=Entry(*by_patterns).outcome,
            rowwise=Entry(*by_rows).outcome,
        )
        for report, by_patterns, by_rows in zip(whole.reports, patterns, rowwise, strict=True)
    ]
    return Explanation(tuple(entries), whole.plan, whole.assumptions, whole.merged, whole.note)
