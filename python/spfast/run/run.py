"""One run of the pass over one graph, up to its edits, and what the core asks in between."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from spfast import _core
from spfast._core import GroupInfo, Report, Values
from spfast.config import SequenceParallelConfig
from spfast.fxgraph.journal import Journal
from spfast.fxgraph.levels import WITHOUT_VALUES, has_values
from spfast.fxgraph.meta import TokenShare, make_values
from spfast.patterns import Registry
from spfast.ranks.divisibility import Decision, decide, too_few
from spfast.ranks.groups import Group, group_name
from spfast.ranks.numbers import own_numbers
from spfast.ranks.told import Told
from spfast.run.all_reduces import AllReduces
from spfast.run.rules import rules_of
from spfast.trust import Assumption

__all__ = ["STAGES", "Report", "Run", "collector_off"]

_ROUNDS = 6  # for so many rounds, only calls that have to stay are left
_UNKNOWN_SIZE = "its size is not known"  # how the core's reason for one node begins
STAGES = ("encode", "match", "plan", "commit", "meta")


class Run:
    """One run over one graph that has all_reduces.

    Attributes:
        path: The path under which the graph is called; empty for the one that was given.
        module: The module whose graph it is, where its code has to be made anew.
        native: The native side.
        seconds: Seconds by stage so far.
    """

    def __init__(
        self,
        graph: fx.Graph,
        config: SequenceParallelConfig,
        registry: Registry,
        found: AllReduces,
        path: str = "",
        module: fx.GraphModule | None = None,
    ) -> None:
        self.path, self.module = path, module
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._graph = graph
        self._config = config
        self._inside = config.inside(f"{path}." if path else "")
        self._rules = rules_of(registry, quantised=config.gather_quantized)
        self._listed = dict.fromkeys(found.listed)
        self._left: list[Report] = [
            Report(node.name, False, "", reason, "") for node, reason in found.left.items()
        ]
        self._told = Told()
        self._encode()
        self._groups: list[Group] = []
        self._decisions: list[Decision] = []
        self._values = Values()
        self._shares: list[TokenShare | None] = []

    def _encode(self) -> None:
        clock = time.perf_counter()
        self.native = _core.NativeRun(self._graph, self._rules, list(self._listed))
        self._is_matched = False
        self._count("encode", clock)

    @property
    def graph(self) -> fx.Graph:
        """The graph."""
        return self._graph

    @property
    def makes_sums(self) -> bool:
        """Whether its edits leave reductions to merge: in place, of several, padded or strided."""
        padded = any(share and share.padded for share in self._shares)
        return bool(self._listed or self._values.strided or padded)

    def set_groups(self, groups: Sequence[Group]) -> None:
        """Takes the answers to ``native.groups()``, and then to ``native.other_groups()``."""
        self._groups = list(groups)
        places = {group.name: place for place, group in enumerate(groups)}
        self.native.set_groups(
            [
                GroupInfo(
                    group.size,
                    group.rank,
                    group.problem,
                    within=[places[name] for name in group.within if name in places],
                    crosses=[places[name] for name in group.crosses if name in places],
                )
                for group in groups
            ]
        )

    def is_own(self, place: int) -> bool:
        """Whether the value at a place of the graph is shown to be each rank's own."""
        if not self._is_matched:
            self._match()
        return self.native.is_own(place)

    def is_shown_by_readers(self, place: int) -> bool:
        """Whether a reader of the value in this graph shows it to be each rank's own."""
        return self.is_own(place) and self.native.is_shown_by_readers(place)

    def is_written(self, place: int) -> bool:
        """Whether the graph writes to the memory of a value."""
        if not self._is_matched:
            self._match()
        return self.native.is_written(place)

    def is_written_own(self, place: int) -> bool:
        """Whether what the graph writes to the memory of a value is each rank's own."""
        return self.is_written(place) and self.native.is_written_own(place)

    def tell(self, more: Told) -> bool:
        """Takes what other graphs say; returns whether any of it is new."""
        told = self._told | more
        if told == self._told:
            return False
        self._told, self._is_matched = told, False
        return True

    def plan(self) -> None:
        """Matches, plans and makes the new values; nothing in the graph is changed."""
        self._plan()
        rounds = 0
        while self._listed and self._leave_listed(rounds):
            rounds += 1
            known = dict(zip(self._names(), self._groups, strict=True))
            self._encode()
            self.set_groups([known[name] for name in self._names()])
            self._plan()

    def _names(self) -> list[str]:
        return [*map(group_name, self.native.groups()), *self.native.other_groups()]

    def _leave_listed(self, rounds: int) -> bool:
        """Takes listed calls that have to stay off the list; returns whether there were any.

        A call in place that stays does write, and the plan did not reckon with that. A call of
        several tensors is left whole, or it would reduce in vain what others scatter.

        Args:
            rounds: How many times calls were taken off before. Each time all of the graph is
                planned anew, so later rounds leave ever more of the calls before one that stays.
        """
        why: dict[fx.Node, str] = {}
        reports = list(zip(self.native.calls(), self.native.reports(), strict=True))
        for call, report in reports:
            if call in self._listed and not report.rewritten:
                why.setdefault(call, f"it is reduced in one call with %{report.node}, which stays")
        many = (1 << rounds) >> _ROUNDS
        for place in reversed([at for at, (call, _) in enumerate(reports) if call in why]):
            reason = f"it is planned together with %{reports[place][1].node}, which stays"
            for call, _ in reports[max(place - many, 0) : place]:
                if call in self._listed:
                    why.setdefault(call, reason)
        for call, report in reports:
            if call in why:
                changed = Report(report.node, False, "", why[call], "")
                self._left.append(changed if report.rewritten else report)
        for call in why:
            del self._listed[call]
        return bool(why)

    def _match(self) -> None:
        clock = time.perf_counter()
        recognise, as_bytes = self._config.recognise, self._config.gather_bytes
        if as_bytes is None:
            as_bytes = not all(group.takes_float8 for group in self._groups)
        self.native.match(
            patterns=recognise != "rowwise",
            rowwise=recognise != "patterns",
            gather_bytes=as_bytes,
            trust_unknown=self._config.replicated == "infer",
            replicated=_vouched_for(self._graph, self._inside),
            numbers=own_numbers(self._graph),
            collective_cost=self._config.collective_cost,
            local_outputs=() if self.path else self._config.local_outputs,
            across=self._told.as_native(),
        )
        self._count("match", clock)
        self._is_matched = True

    def _plan(self) -> None:
        native = self.native
        if not self._is_matched:
            self._match()
        self._decide(hoping=True)
        odd = [decision for decision in self._decisions if decision.odd]
        if odd:
            # Sites that could be rewritten for another number of tokens are worth another graph.
            hoped = {report.node for report in native.reports() if report.rewritten}
            self._decide(hoping=False)
            lost = {
                report.reason
                for report in native.reports()
                if report.node in hoped and not report.rewritten
            }
            self._decisions = [each for each in self._decisions if not each.odd]
            self._decisions += [replace(each, guarded=True) for each in odd if each.refused in lost]

    def _decide(self, hoping: bool) -> None:
        """Plans, and makes the values of the plan.

        Args:
            hoping: Whether a number of tokens counts as shared where only its example forbids it.
        """
        native = self.native
        decisions: dict[tuple[str, int], Decision] = {}

        def judge(tokens: Any, group: int) -> tuple[str, bool]:
            decision = self._decision(tokens, self._groups[group].size)
            decisions[str(tokens), group] = decision
            if hoping and decision.odd:
                return "", False
            return decision.refused, decision.padded

        clock = time.perf_counter()
        native.plan(judge)
        self._count("plan", clock)
        clock = time.perf_counter()
        self._decisions = []
        self._shares = shares = []
        for one in native.classes():
            group = self._groups[one.group]
            share = None
            if one.shared:
                share = TokenShare.of(one.tokens, group.size, group.rank, one.padded)
            shares.append(share)
            key = (str(one.tokens), one.group)
            if key in decisions:
                self._decisions.append(decisions[key])
        self._values = make_values(native.value_specs(), shares)
        self._count("meta", clock)

    def _decision(self, tokens: Any, size: int) -> Decision:
        """Whether so many tokens can be shared among so many ranks."""
        few = too_few(tokens, self._config)
        return (
            Decision(tokens, size, few) if few else decide(tokens, size, self._config.divisibility)
        )

    def reports(self) -> list[Report]:
        """One for each all_reduce, in graph order."""
        found = self.native.reports()
        if any(report.reason.startswith(_UNKNOWN_SIZE) for report in found):
            found = self._without_values(found)
        if self._left:
            place = {node.name: at for at, node in enumerate(self._graph.nodes)}
            found = sorted([*found, *self._left], key=lambda report: place[report.node])
        if self.path:
            return [
                Report(f"{self.path}.{one.node}", one.rewritten, one.rule, one.reason, one.nearest)
                for one in found
            ]
        return found

    def _without_values(self, found: list[Report]) -> list[Report]:
        """Gives a reason about the whole graph where no node at all has a value."""
        if has_values(self._graph):
            return found
        return [
            Report(one.node, one.rewritten, one.rule, WITHOUT_VALUES, "")
            if one.reason.startswith(_UNKNOWN_SIZE)
            else one
            for one in found
        ]

    def assumptions(self) -> list[Assumption]:
        """What is taken to be the same on every rank."""
        at = f"{self.path}." if self.path else ""
        return [
            Assumption(
                f"{at}{one.value}", f"is read beside the rows that %{at}{one.reader} computes"
            )
            for one in self.native.assumptions()
        ]

    def totals(self) -> list[str]:
        """The sums over tokens of which each rank computes its part."""
        at = f"{self.path}." if self.path else ""
        return [f"{at}{name}" for name in self.native.totals()]

    def padded(self) -> list[str]:
        """The numbers of tokens that are padded, each with what it becomes."""
        if not any(share is not None and share.padded for share in self._shares):
            return []  # the usual case; to list the values of all new nodes takes long
        found = sorted(self.native.value_specs().padded_classes())
        shares = [self._shares[index] for index in found]
        return [f"{share.tokens} tokens to {share.gathered}" for share in shares if share]

    def edit(self) -> Journal:
        """Makes the edits; returns the journal that takes them back."""
        clock = time.perf_counter()
        values = self._values
        journal: Journal = self.native.commit(values.created, values.resized, values.described)
        if values.strided:
            try:
                self._settle(journal)
            except BaseException:
                journal.undo()
                raise
        self._count("commit", clock)
        return journal

    def _settle(self, journal: Journal) -> None:
        """Gives nodes with unusual strides the values that FakeTensorMode computes."""
        from spfast.fxgraph.strides import settle

        created = [entry[1] for entry in journal.entries if entry[0] == "create"]
        touched = created + self.native.value_specs().resized_nodes()
        settle(self._graph, journal, touched, [touched[i] for i in self._values.strided])

    @property
    def left_as_odd(self) -> bool:
        """Whether sites stay because of the example alone; the graph is then for such examples."""
        return any(decision.guarded and decision.odd for decision in self._decisions)

    def guard(self) -> None:
        """Adds the guards on which the edits rest."""
        clock = time.perf_counter()
        for decision in self._decisions:
            decision.commit()
        self._count("commit", clock)

    def _count(self, stage: str, clock: float) -> None:
        self.seconds[stage] += time.perf_counter() - clock


def _vouched_for(graph: fx.Graph, config: SequenceParallelConfig) -> list[int]:
    """The inputs that the caller says are the same on every rank, by their place in the graph."""
    if isinstance(config.replicated, str):
        return []
    return [
        place
        for place, node in enumerate(graph.nodes)
        if node.op in ("placeholder", "get_attr") and config.names_replicated(node)
    ]


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Keeps Python's garbage collector out of the few milliseconds that a rewrite takes.

    The many new objects of a graph set off full collections. Each of these looks at everything that
    the process holds, and finds nothing. With a large model loaded they take longer than all the
    rest.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
