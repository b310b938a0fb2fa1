"""Why each all_reduce of a graph is rewritten, or why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import fx

from spfast.api import Report, plan_graph, preview
from spfast.config import Recognise, SequenceParallelConfig, as_config
from spfast.fxgraph.graphs import called_graphs, graph_of
from spfast.pairs import AsyncTP
from spfast.patterns import Registry, default_registry
from spfast.report.rows import COLLECTIVES, Row, rows_of
from spfast.report.traffic import Traffic, traffic_of
from spfast.result import Merged, of_padding, of_parts
from spfast.trust import Assumption, names_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Entry", "Explanation", "explain"]

# The recognisers, each of which is also tried alone.
RECOGNISERS: tuple[Recognise, ...] = ("patterns", "rowwise")


@dataclass(frozen=True)
class Entry:
    """One all_reduce.

    Attributes:
        node: Its name.
        rewritten: Whether the pass rewrites it.
        rule: The rule that matches; empty where none does.
        reason: Why it stays. Where it is rewritten: why it is gathered before a quantisation that
            could have come first; empty where there is no such quantisation.
        nearest: Where no rule matches: the nearest rule with its first mismatch, that is the node,
            what was expected there and what was found.
        patterns: What the patterns alone would do with it.
        rowwise: What the row-wise recogniser alone would do with it.
        layer: The layer of the model that it is in, where the trace knows it.
    """

    node: str
    rewritten: bool
    rule: str = ""
    reason: str = ""
    nearest: str = ""
    patterns: str = ""
    rowwise: str = ""
    layer: str = ""

    @staticmethod
    def of(report: Report) -> Entry:
        """What a run reports of it."""
        return Entry(report.node, report.rewritten, report.rule, report.reason, report.nearest)

    @property
    def outcome(self) -> str:
        """What becomes of it, and why."""
        if self.rewritten:
            short = f", but gathered early: {self.reason}" if self.reason else ""
            return f"rewritten by {self.rule}{short}"
        matched = f" (matches {self.rule})" if self.rule else ""
        return f"left{matched}: {self.reason}"

    def __str__(self) -> str:
        return "\n    ".join([f"%{self.node}: {self.outcome}", *self._details()])

    def kind(self) -> tuple[str, ...]:
        """A key that is equal for entries that are told together: all but the names of nodes."""
        return tuple(re.sub(r"%\w+", "%", text) for text in (self.outcome, *self._details()))

    def _details(self) -> list[str]:
        lines = []
        if self.nearest and not self.rewritten:
            lines.append(f"nearest: {self.nearest}")
        # Where the recognisers do not agree, each has a line.
        if _is_done(self.patterns) != _is_done(self.rowwise):
            lines += [f"patterns alone: {self.patterns}", f"row-wise alone: {self.rowwise}"]
        return lines


@dataclass(frozen=True)
class Explanation:
    """The entries of one graph, in graph order.

    Attributes:
        entries: One for each all_reduce.
        plan: Every edit that the pass would make, one a line.
        assumptions: The values that would be taken to be the same on every rank.
        merged: The reductions that would be merged first, because only their sum is read.
        totals: The sums over tokens that each rank would compute of its own rows.
        note: Where there is no all_reduce because the graph is of another level than ATen's, what
            to pass instead.
        before: The collectives of the graph as it is, and the memory of its values.
        after: The collectives that it would have, and the memory of its values then.
        async_tp: The pairs that would be fused then, and those that would not; None where that is
            not asked for.
        padded: The numbers of tokens that would be padded, each with what it becomes.
    """

    entries: tuple[Entry, ...]
    plan: str = ""
    assumptions: tuple[Assumption, ...] = ()
    merged: tuple[Merged, ...] = ()
    note: str = ""
    before: Traffic = Traffic()
    after: Traffic = Traffic()
    totals: tuple[str, ...] = ()
    async_tp: AsyncTP | None = None
    padded: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the explanation as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, verbose: bool = False) -> str:
        """Returns the explanation as text for people.

        Args:
            verbose: Whether every all_reduce has a line of its own. Else all_reduces of which the
                same is said share a line.
        """
        done = sum(entry.rewritten for entry in self.entries)
        head = f"{len(self.entries)} all_reduces, {done} rewritten, {len(self.entries) - done} left"
        if self.note:
            head = f"note: {self.note}"
        lines = [head, *(f"  merged first: {each}" for each in self.merged)]
        if verbose:
            lines += [f"  {entry}" for entry in self.entries]
        else:
            lines += [f"  {_together(entries)}" for entries in _alike(self.entries)]
        lines += [f"  {of_parts(self.totals, verbose)}"] if self.totals else []
        lines += [f"  {of_padding(self.padded)}"] if self.padded else []
        lines += self._traffic()
        if self.entries:
            patterns = sum(_is_done(entry.patterns) for entry in self.entries)
            rowwise = sum(_is_done(entry.rowwise) for entry in self.entries)
            lines += [
                f"the patterns alone rewrite {patterns}: rules for the operators around a norm",
                f"the row-wise recogniser alone {rowwise}: all operators on each token alone",
            ]
        if self.async_tp is not None:
            lines += str(self.async_tp).splitlines()
        if self.assumptions:
            lines.append(f"taken to be the same on every rank: {names_of(self.assumptions)}")
        return "\n".join(lines)

    def _traffic(self) -> list[str]:
        """The collectives before and after, or what is sharded already where nothing changes."""
        if self.before == self.after:
            counts = self.before.counts
            if not counts.get("reduce_scatter"):
                return []
            return [
                f"sharded already: {counts['reduce_scatter']:,} reduce_scatters, "
                f"{counts.get('all_gather', 0):,} all_gathers"
            ]
        kinds = [
            f"{kind} {self.before.counts.get(kind, 0):,} -> {self.after.counts.get(kind, 0):,}"
            for kind in COLLECTIVES
        ]
        lines = [
            f"collectives: {', '.join(kinds)}",
            f"bytes that they move: {self.before.bytes:,} -> {self.after.bytes:,}",
        ]
        memory = f"computed values at their peak: {self.before.peak:,} -> {self.after.peak:,} bytes"
        if self.before.returned != self.after.returned:
            memory += f"; returned: {self.before.returned:,} -> {self.after.returned:,}"
        lines.append(memory)
        readers = [f"{name} ({count:,})" for name, count in self.after.readers.items()]
        more = f" and {len(readers) - _SHOWN} more" if len(readers) > _SHOWN else ""
        if readers:
            lines.append(f"gathered for what needs all tokens: {', '.join(readers[:_SHOWN])}{more}")
        return lines


# So many operators that read gathered values are named.
_SHOWN = 6


def _alike(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in groups of which the same is said, the earliest first."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.kind(), []).append(entry)
    return list(groups.values())


def _together(entries: Sequence[Entry]) -> str:
    """Describes several entries as one: what is said of the first holds for all."""
    first, last = entries[0], entries[-1]
    layers = list(dict.fromkeys(entry.layer for entry in entries if entry.layer))
    where = f" ({layers[0]}{f' to {layers[-1]}' if len(layers) > 1 else ''})" if layers else ""
    if len(entries) == 1:
        return str(first) + where
    names = f"{len(entries):,} of %{first.node} to %{last.node}{where}"
    return "\n    ".join([f"{names}: {first.outcome}", *first._details()])


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
        0 all_reduces, 0 rewritten, 0 left
    """
    config = as_config(config)
    views = {
        recognise: plan_graph(
            graph,
            replace(
                config,
                recognise=recognise,
                async_tp=config.async_tp and recognise == config.recognise,
            ),
            registry=registry,
        )
        for recognise in {config.recognise: None, **dict.fromkeys(RECOGNISERS)}
    }
    whole = views[config.recognise]
    patterns, rowwise = (views[alone].reports for alone in RECOGNISERS)
    rewritten = preview(graph, replace(config, async_tp=False), registry=registry)
    before, after = (_rows(each, registry) for each in (graph_of(graph), rewritten))
    layers = {row.name: row.layer for rows in before for row in rows}
    entries = [
        replace(
            Entry.of(report),
            patterns=Entry.of(by_patterns).outcome,
            rowwise=Entry.of(by_rows).outcome,
            layer=layers.get(report.node, ""),
        )
        for report, by_patterns, by_rows in zip(whole.reports, patterns, rowwise, strict=True)
    ]
    return Explanation(
        tuple(entries),
        whole.plan,
        whole.assumptions,
        whole.merged,
        whole.note,
        traffic_of(*before),
        traffic_of(*after),
        whole.totals,
        whole.async_tp,
        whole.padded,
    )


def _rows(graph: fx.Graph, registry: Registry | None) -> tuple[list[Row], list[Row]]:
    """The nodes of a graph, and of those that it calls, as plain data."""
    rules = default_registry() if registry is None else registry
    found: list[Row] = []
    for path, module in called_graphs(graph).items():
        for row in rows_of(module.graph, rules):
            inputs = tuple(f"{path}.{name}" for name in row.inputs)
            found.append(replace(row, name=f"{path}.{row.name}", inputs=inputs))
    return list(rows_of(graph, rules)), found
