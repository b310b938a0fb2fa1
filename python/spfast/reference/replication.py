"""Values that each rank has for itself, so that they may not be read beside one rank's rows.

A collective on a value that all ranks share would be for nothing. So its operand is each rank's
own, and so is what the operand was computed from. Through an operator that treats rows alone, this
goes on to the operands most likely to be partial, and to conditions that select from them. Through
any other operator that computes from its operands alone, it goes on to the only operand that is not
known to be shared. A maximum or an average of equal values changes nothing: such a collective shows
something only through operators that treat rows alone.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.ranks.groups import lies_across, lies_within
from spfast.reference.conditions import conditions
from spfast.reference.constants import Doubted, doubted_constants, doubted_sums
from spfast.reference.traits import Traits, changes_equals, reduces_tokens, traits_of
from spfast.reference.values import (
    IDENTITIES,
    VIEWS,
    Memory,
    is_read,
    operator_name,
    symbols_of_inputs,
)
from spfast.reference.written import EVERY, Written

__all__ = ["Replication"]

aten = torch.ops.aten

_Shared = Any  # a set of groups, or EVERY

# How likely a value is one rank's part of a sum. Least likely is a value that all ranks share, then
# an input, and most likely what weights went into.
_NOT_AT_ALL, _INPUT, _COMPUTED = range(3)


class Replication:
    """What the graph itself shows of each value.

    Args:
        graph: The graph.
        memory: Who writes to what.
        row_wise: Names of the operators that treat rows alone.
        groups: The group of each all_reduce; empty where it carries none.
        config: Says what may be taken on trust.
    """

    def __init__(
        self,
        graph: fx.Graph,
        memory: Memory,
        row_wise: Collection[str],
        groups: Mapping[fx.Node, Any],
        config: SequenceParallelConfig,
    ) -> None:
        self._memory, self._row_wise, self._groups = memory, row_wise, groups
        self._traits = {node: traits_of(operator_name(node)) for node in graph.nodes}
        self._known = dict.fromkeys(map(self._group, graph.nodes))
        self._known.pop(None, None)
        names = [group for group in self._known if isinstance(group, str)]
        self._inside = {
            outer: [each for each in names if lies_within(each, outer, config)] for outer in names
        }
        self._across = {
            group: [each for each in names if lies_across(each, group, config)] for group in names
        }
        self.trusts_unknown = config.replicated == "infer"
        # By value: the groups whose ranks all have it. Then, each with the collective that shows
        # it, the groups whose ranks have their own, and those over which it was scattered.
        self._shared: dict[fx.Node, _Shared] = {
            node: EVERY
            for node in graph.nodes
            if node.op in ("placeholder", "get_attr") and config.names_replicated(node)
        }
        self._shown: dict[fx.Node, dict[Any, fx.Node]] = {node: {} for node in graph.nodes}
        self._scattered: dict[fx.Node, dict[Any, fx.Node]] = {node: {} for node in graph.nodes}
        # The same for memory that is written to: what was written so far, and what is read later.
        self._written: dict[fx.Node, tuple[dict[Any, fx.Node], dict[Any, fx.Node]]] = {}
        self._contents = Written(memory, self._known)
        self._read: dict[fx.Node, dict[Any, fx.Node]] = {}
        self._doubted: Doubted = {}
        vouched = dict(self._shared)
        self._prove(graph)
        self._doubted = doubted_constants(
            graph,
            self._reduced,
            self._computes,
            lambda node, made: changes_equals(made) or self._treats_rows_alone(node),
            self.is_shared,
        )
        if self._doubted:
            self._prove_again(graph, vouched)
        sums = doubted_sums(
            graph,
            lambda node: self._reduced(node) if changes_equals(node) else (None, []),
            self._computes,
            self._treats_rows_alone,
            self.is_shared,
        )
        if sums:
            for node, groups in sums.items():
                self._doubted[node] = {**groups, **self._doubted.get(node, {})}
            self._prove_again(graph, vouched)
        self._suspicion = {group: self._rate(graph, group) for group in self._known}
        self._conditions = {
            group: conditions(
                graph,
                functools.partial(self.is_shared, group=group),
                lambda node: self._of(node).condition,
                self._treats_rows_alone,
            )
            for group in self._known
        }
        # Values that are a rank's own only because something selects by them.
        self._selecting: set[tuple[fx.Node, Any]] = set()
        for node in reversed(graph.nodes):
            self._blame(node)
        self._spread(graph)

    def _spread(self, graph: fx.Graph) -> None:
        """Marks what reads a rank's own value. Twice where one wrote: the next call reads it."""
        for _ in range(2 if self._written else 1):
            for node in graph.nodes:
                if node.op in ("placeholder", "get_attr"):
                    self._follow_contents(node, node, None)
                self._follow_own(node)

    def _prove_again(self, graph: fx.Graph, vouched: Mapping[fx.Node, _Shared]) -> None:
        self._shared = dict(vouched)
        self._shown = {node: {} for node in graph.nodes}
        self._scattered = {node: {} for node in graph.nodes}
        self._written, self._contents = {}, Written(self._memory, self._known)
        self._prove(graph)

    def is_shared(self, value: fx.Node, group: Any) -> bool:
        """Whether all ranks of the group have the value, by proof."""
        groups = self._shared.get(value, frozenset())
        return groups is EVERY or group in groups

    def evidence(self, value: fx.Node, group: Any) -> fx.Node | None:
        """The collective that shows that each rank has its own; None where nothing does."""
        if self.is_shared(value, group):
            return None
        shown, scattered = self._shown[value], self._scattered[value]
        inside, across = self._inside.get(group, ()), self._across.get(group, ())
        found = {each: shown[each] for each in shown if each == group or each in inside}
        found.update((each, scattered[each]) for each in scattered if each not in across)
        in_order = [group, *(each for each in self._known if each != group)]
        return next((found[each] for each in in_order if each in found), None)

    # --- one node -----------------------------------------------------------------------------

    def _of(self, node: fx.Node) -> Traits:
        return self._traits[node]

    def _group(self, node: fx.Node) -> Any:
        """The group of a collective; None where it names none."""
        if node in self._groups:
            return self._groups[node]
        if node.op != "call_function" or not self._of(node).collective:
            return None
        given = node.args[-1] if node.args else None
        group = node.kwargs.get("group_name", node.kwargs.get("group", given))
        return group if isinstance(group, str) else None

    def _computes(self, node: fx.Node) -> bool:
        """Whether ranks with the same operands get the same result."""
        traits = self._of(node)
        if node.op != "call_function" or traits.collective:
            return False
        if traits.dropout is not None:
            if traits.dropout < len(node.args):
                return bool(node.args[traits.dropout] == 0)
            return not node.kwargs
        return traits.deterministic or operator_name(node) in self._row_wise

    def _treats_rows_alone(self, node: fx.Node) -> bool:
        is_part = node.target is operator.getitem and type(node.args[1]) is int
        row_wise = operator_name(node) in self._row_wise and not reduces_tokens(node)
        return row_wise or node.target in (*VIEWS, *IDENTITIES) or is_part

    # --- forward: what is proved --------------------------------------------------------------

    def _prove(self, graph: fx.Graph) -> None:
        sizes = symbols_of_inputs(graph)
        ragged: set[tuple[fx.Node, Any]] = set()  # of a size that only its own rank knows
        for node in graph.nodes:
            traits, operands = self._of(node), node.all_input_nodes
            if node.op != "call_function":
                val = node.meta.get("val")
                if isinstance(val, torch.SymInt) and val.node.expr.free_symbols <= sizes:
                    self._shared[node] = EVERY
            elif traits.collective:
                self._prove_collective(node, traits.collective)
            elif traits.rank:
                self._mark_own(node, self._known, node)
            else:
                if self._computes(node) and self._memory.is_made_last(node):
                    self._shared[node] = self._common(operands)
                    if node in self._doubted:
                        self._shared[node] = frozenset(self._known) - self._doubted[node].keys()
                    for group, collective in self._doubted.get(node, {}).items():
                        self._mark_own(node, [group], collective)
                    if self._shared[node] is EVERY:
                        continue
                for group in self._known:
                    if self.is_shared(node, group):
                        continue
                    is_data = traits.data_sized or (traits.sizes and is_read(node))
                    if is_data or any((each, group) in ragged for each in operands):
                        ragged.add((node, group))
                if traits.sizes:
                    even = {each for each in self._known if (node, each) not in ragged}
                    self._shared[node] = EVERY if len(even) == len(self._known) else even
                self._follow_own(node)

    def _reduced(self, node: fx.Node) -> tuple[Any, list[fx.Node]]:
        """The group of a collective, and what it reduces or gathers."""
        kind, group = self._of(node).collective, self._group(node)
        tells = kind in ("all_reduce", "reduce_scatter", "all_gather")
        if node.op != "call_function" or group is None or not tells:
            return group, []
        return group, node.all_input_nodes

    def _common(self, operands: Collection[fx.Node]) -> _Shared:
        """The groups whose ranks share all of these."""
        common: _Shared = EVERY
        for operand in operands:
            groups = self._contents.left(operand, self._shared.get(operand, frozenset()))
            if groups is not EVERY:
                common = groups if common is EVERY else common & groups
        return common

    def _prove_collective(self, node: fx.Node, kind: str) -> None:
        group = self._group(node)
        if kind in ("all_reduce", "all_gather"):
            if self._memory.other_writer(node) is None and group is not None:
                self._shared[node] = frozenset([group])
        elif kind in ("reduce_scatter", "all_to_all"):
            if group is None:  # it may be any
                self._mark_own(node, self._known, node)
            else:
                self._scattered[node].setdefault(group, node)
        self._follow_own(node)

    def _follow_own(self, node: fx.Node) -> None:
        """Marks what a node computes from a rank's own value, unless it is a size, as its own.

        A collective over one group leaves it own in others. One in place writes what it yields.
        """
        traits = self._of(node)
        if node.op != "call_function" or traits.sizes:
            return
        ended = self._group(node) if traits.collective else None
        for operand in node.all_input_nodes:
            self._follow(node, self._shown[operand], self._scattered[operand], ended)
            self._follow_contents(node, operand, ended)
        same = self._common(node.all_input_nodes) if self._computes(node) else None
        self._contents.note(node, same or self._shared.get(node, ()))
        for storage in self._memory.storages_written_by(node):
            shown, scattered = self._written.setdefault(storage, ({}, {}))
            for group, evidence in self._shown[node].items():
                shown.setdefault(group, evidence)
            for group, evidence in self._scattered[node].items():
                scattered.setdefault(group, evidence)

    def _follow_contents(self, node: fx.Node, value: fx.Node, ended: Any) -> None:
        storage = self._memory.written_storage(value)
        if storage in self._written:
            self._follow(node, *self._written[storage], ended)

    def _follow(
        self,
        node: fx.Node,
        shown: Mapping[Any, fx.Node],
        scattered: Mapping[Any, fx.Node],
        ended: Any,
    ) -> None:
        for group, evidence in list(shown.items()):
            if group != ended:
                self._mark_own(node, [group], evidence)
        for group, evidence in list(scattered.items()):
            if group != ended and not self.is_shared(node, group):
                self._scattered[node].setdefault(group, evidence)

    def _rate(self, graph: fx.Graph, group: Any) -> dict[fx.Node, int]:
        rated: dict[fx.Node, int] = {}
        for node in graph.nodes:
            if self.is_shared(node, group) or self._was_born_shared(node, group):
                rated[node] = _NOT_AT_ALL
            elif node.op != "call_function":
                rated[node] = _INPUT
            elif not self._treats_rows_alone(node) and not self._of(node).collective:
                rated[node] = _COMPUTED
            else:
                operands = [rated[operand] for operand in node.all_input_nodes]
                rated[node] = max(operands, default=_NOT_AT_ALL)
        return rated

    def _was_born_shared(self, node: fx.Node, group: Any) -> bool:
        """Whether all ranks share a value at first. A later write does not matter here."""
        if not self._computes(node):
            return False
        groups = self._common(node.all_input_nodes)
        return groups is EVERY or group in groups

    # --- backward: what a collective would be for nothing on -----------------------------------

    def _mark_own(self, value: fx.Node, groups: Collection[Any], collective: fx.Node) -> None:
        for group in groups:
            if self.is_shared(value, group):
                continue
            known = self._shown[value].setdefault(group, collective)
            # If two collectives show it, the one that shows more is kept.
            later = self._memory.position[known] > self._memory.position[value]
            if later and not changes_equals(known) and changes_equals(collective):
                self._shown[value][group] = collective

    def _blame(self, node: fx.Node) -> None:
        if node.op != "call_function":
            return
        kind, group = self._of(node).collective, self._group(node)
        if kind in ("all_reduce", "reduce_scatter", "all_gather") and group is not None:
            for operand in node.all_input_nodes:
                self._accuse(operand, group, node)
        elif not kind:
            for storage in self._memory.storages_written_by(node):
                for each, evidence in self._read.get(storage, {}).items():
                    self._mark_own(node, [each], evidence)
        position = self._memory.position
        for each, evidence in list(self._shown[node].items()):
            # What an earlier collective shows of this value says nothing of its operands.
            if position[evidence] <= position[node]:
                continue
            if not kind:
                self._blame_operands(node, each, evidence)
            elif kind in ("all_reduce", "all_gather") or each in self._across.get(group, ()):
                for operand in node.all_input_nodes:
                    self._accuse(operand, each, evidence)

    def _accuse(self, value: fx.Node, group: Any, collective: fx.Node) -> None:
        self._selecting.discard((value, group))
        self._accuse_read(value, group, collective)

    def _accuse_read(self, value: fx.Node, group: Any, collective: fx.Node) -> None:
        self._mark_own(value, [group], collective)
        storage = self._memory.written_storage(value)
        if storage is not None and not self.is_shared(value, group):
            self._read.setdefault(storage, {})[group] = collective

    def _writes_rows_alone(self, node: fx.Node) -> bool:
        """Whether a node writes in place, and the operator that it is named after is row-wise."""
        name = operator_name(node)
        if not self._memory.storages_written_by(node) or "_." not in name:
            return False
        named_after = name.replace("_.", ".", 1) in self._row_wise and not reduces_tokens(node)
        return node.target is aten.copy_.default or named_after

    def _blame_operands(self, node: fx.Node, group: Any, collective: fx.Node) -> None:
        if (node, group) in self._selecting:
            self._blame_conditions(node, group, collective)
            return
        rows = self._treats_rows_alone(node) or self._writes_rows_alone(node)
        if not rows and not (self._computes(node) and changes_equals(collective)):
            return
        suspicion = self._suspicion[group]
        # Nothing is left of the operand that a copy overwrites.
        gone = node.args[0] if node.target is aten.copy_.default else None
        operands = [each for each in node.all_input_nodes if each is not gone]
        suspects = [each for each in operands if suspicion[each] != _NOT_AT_ALL]
        if not rows and len(suspects) > 1:
            return
        most = max((suspicion[each] for each in suspects), default=_NOT_AT_ALL)
        for operand in operands:
            if suspicion[operand] == most:
                self._accuse(operand, group, collective)
        if rows:
            self._blame_conditions(node, group, collective)

    def _blame_conditions(self, node: fx.Node, group: Any, collective: fx.Node) -> None:
        """Marks conditions as one rank's own, as what they select is, but not what they compare."""
        at = self._of(node).selects_by
        named = node.args[at] if at is not None and at < len(node.args) else None
        for operand in node.all_input_nodes:
            if self.is_shared(operand, group):
                continue
            if operand is named or operand in self._conditions[group]:
                if group not in self._shown[operand]:
                    self._selecting.add((operand, group))
                self._accuse_read(operand, group, collective)
