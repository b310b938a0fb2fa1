"""Why each all_reduce of a graph is rewritten, or why not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from spfast.api import plan_graph
from spfast.config import SequenceParallelConfig
from spfast.patterns import Registry

__all__ = ["Entry", "Explanation", "explain"]


@dataclass(frozen=True)
class Entry:
    """One all_reduce.

    Attributes:
        node: Its name.
        rewritten: Whether the pass rewrites it.
        rule: The rule that matches; empty where none does.
        reason: Why it stays; empty where it does not.
        nearest: Where no rule matches, the nearest one with its first mismatch: the node, what was
            expected there and what was found.
    """

    node: str
    rewritten: bool
    rule: str = ""
    reason: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        if self.rewritten:
            return f"%{self.node}: rewritten by {self.rule}"
        matched = f" (matches {self.rule})" if self.rule else ""
        nearest = f"\n    nearest: {self.nearest}" if self.nearest else ""
        return f"%{self.node}: left{matched}: {self.reason}{nearest}"


@dataclass(frozen=True)
class Explanation:
    """The entries of one graph, in graph order.

    Attributes:
        entries: One for each all_reduce.
        plan: Every edit that the pass would make, one a line.
    """

    entries: tuple[Entry, ...]
    plan: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the explanation as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        done = sum(entry.rewritten for entry in self.entries)
        head = f"{len(self.entries)} all_reduces, {done} rewritten"
        return "\n".join([head, *(f"  {entry}" for entry in self.entries)])


def explain(
    graph: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> Explanation:
    """Says for every all_reduce what :func:`spfast.apply` would do with it, and why.

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
    reports, plan = plan_graph(graph, config, registry=registry)
    return Explanation(tuple(Entry(*report) for report in reports), plan)
