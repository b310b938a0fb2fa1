"""What only one rank has, so that it may not be read beside one rank's rows.

A collective on what all ranks share would be for nothing. So what one is called on is a rank's own,
and so is what that was computed from: through operators that treat rows alone, the operands most
likely to be partial and the conditions that select of them, and through any other that computes
from its operands alone, the one operand that is not known to be shared. A maximum or an average of
what all ranks share changes nothing: it shows something only through operators that treat rows
alone.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.groups import lies_within
from spfast.reference.traits import Traits, traits_of
from spfast.reference.values import Memory, operator_name

__all__ = ["Replication"]

aten = torch.ops.aten

# In place of a group: whatever the group.
_EVERY = object()

_NAMES = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)

_REDUCTIONS = (
    aten.sum,
    aten.mean,
    aten.amax,
    aten.amin,
    aten.prod,
    aten.max,
    aten.min,
    aten.std,
    aten.var,
    aten.var_mean,
    aten.logsumexp,
    aten.any,
    aten.all,
    aten.argmax,
    aten.argmin,
)

# How likely a value is one rank's part of a sum: what all share, an input, what weights went into.
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
        self._known_groups = {group for group in groups.values() if isinstance(group, str)}
        self._around = {
            inner: [outer for outer in self._known_groups if lies_within(inner, outer, config)]
            for inner in self._known_groups
        }
        self.trusts_unknown = config.replicated == "infer"
        self._traits = {node: traits_of(operator_name(node)) for node in graph.nodes}
        # The group whose ranks all have a value, and that of which each has its own.
        self._shared: dict[fx.Node, Any] = {
            node: _EVERY
            for node in graph.nodes
            if node.op in ("placeholder", "get_attr") and config.names_replicated(node)
        }
        self._owner: dict[fx.Node, Any] = {}
        self._evidence: dict[fx.Node, fx.Node] = {}
        self._prove(graph)
        self._suspicion = self._rate(graph)
        self._conditions = self._find_conditions(graph)
        self._selecting: set[fx.Node] = set()  # a rank's own for what selects by it alone
        for node in reversed(graph.nodes):
            self._blame(node)
        for node in graph.nodes:
            self._follow_own(node)

    def is_shared(self, value: fx.Node, group: Any) -> bool:
        """Whether all ranks of the group have the value, by proof."""
        return self._shared.get(value) in (_EVERY, group)

    def evidence(self, value: fx.Node, group: Any) -> fx.Node | None:
        """The collective that shows that each rank has its own; None where nothing does."""
        if self.is_shared(value, group) or self._owner.get(value) not in (_EVERY, group):
            return None
        return self._evidence[value]

    # --- one node -----------------------------------------------------------------------------

    def _of(self, node: fx.Node) -> Traits:
        return self._traits[node]

    def _group(self, node: fx.Node) -> Any:
        """The group of a collective; None where no all_reduce is to be rewritten over it."""
        if node in self._groups:
            return self._groups[node]
        given = node.args[-1] if node.args else None
        group = node.kwargs.get("group_name", node.kwargs.get("group", given))
        return group if isinstance(group, str) and group in self._known_groups else None

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
        row_wise = operator_name(node) in self._row_wise and not _reduces_tokens(node)
        return row_wise or node.target in _NAMES or is_part

    # --- forward: what is proved --------------------------------------------------------------

    def _prove(self, graph: fx.Graph) -> None:
        ragged: set[fx.Node] = set()  # of a size that only its own rank knows
        for node in graph.nodes:
            traits, operands = self._of(node), node.all_input_nodes
            if node.op != "call_function":
                if isinstance(node.meta.get("val"), torch.SymInt):
                    self._shared[node] = _EVERY
            elif traits.collective:
                self._prove_collective(node, traits.collective)
            elif traits.rank:
                self._give_away(node, _EVERY, node)
            elif self._computes(node) and self._prove_computed(node):
                pass
            else:
                if traits.data_sized or any(operand in ragged for operand in operands):
                    ragged.add(node)
                if traits.sizes and node not in ragged:
                    self._shared[node] = _EVERY
                self._follow_own(node)

    def _follow_own(self, node: fx.Node) -> None:
        """What a node computes from a rank's own value is its own, but for sizes."""
        traits = self._of(node)
        if node.op != "call_function" or traits.collective or traits.sizes:
            return
        for operand in node.all_input_nodes:
            if operand in self._owner:
                self._give_away(node, self._owner[operand], self._evidence[operand])

    def _prove_collective(self, node: fx.Node, kind: str) -> None:
        group = self._group(node)
        if group is None:
            return
        if kind in ("all_reduce", "all_gather"):
            if self._memory.other_writer(node) is None:
                self._shared[node] = group
        elif kind in ("reduce_scatter", "all_to_all"):
            self._give_away(node, group, node)

    def _prove_computed(self, node: fx.Node) -> bool:
        if self._memory.writer_of(node) is not None:
            return False
        common: Any = _EVERY
        for operand in node.all_input_nodes:
            group = self._shared.get(operand)
            if group is _EVERY or group == common:
                continue
            if group is None or common is not _EVERY:
                return False
            common = group
        self._shared[node] = common
        return True

    def _rate(self, graph: fx.Graph) -> dict[fx.Node, int]:
        rated: dict[fx.Node, int] = {}
        for node in graph.nodes:
            if node in self._shared:
                rated[node] = _NOT_AT_ALL
            elif node.op != "call_function":
                rated[node] = _INPUT
            elif not self._treats_rows_alone(node):
                rated[node] = _COMPUTED
            else:
                operands = [rated[operand] for operand in node.all_input_nodes]
                rated[node] = max(operands, default=_NOT_AT_ALL)
        return rated

    def _find_conditions(self, graph: fx.Graph) -> set[fx.Node]:
        """Comparisons, and what is made of them alone, row by row."""
        found: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op != "call_function" or node in self._shared:
                continue
            unproved = [each for each in node.all_input_nodes if each not in self._shared]
            made = bool(unproved) and all(each in found for each in unproved)
            if self._of(node).condition or (made and self._treats_rows_alone(node)):
                found.add(node)
        return found

    # --- backward: what a collective would be for nothing on -----------------------------------

    def _give_away(self, value: fx.Node, group: Any, collective: fx.Node) -> None:
        self._note_own(value, group, collective)
        for outer in self._around.get(group, ()):
            self._note_own(value, outer, collective)

    def _note_own(self, value: fx.Node, group: Any, collective: fx.Node) -> None:
        if group is None or self.is_shared(value, group):
            return
        owner = self._owner.get(value)
        if owner in (_EVERY, group):
            # Of two that give it away, the one that gives away more.
            known = self._evidence[value]
            later = self._memory.position[known] > self._memory.position[value]
            if later and not _changes_equals(known) and _changes_equals(collective):
                self._evidence[value] = collective
            return
        self._owner[value] = group if owner is None else _EVERY
        self._evidence.setdefault(value, collective)

    def _blame(self, node: fx.Node) -> None:
        if node.op != "call_function":
            return
        kind = self._of(node).collective
        if kind in ("all_reduce", "reduce_scatter", "all_gather"):
            for operand in node.all_input_nodes:
                self._accuse(operand, self._group(node), node)
            return
        position = self._memory.position
        # What comes out of a collective says nothing of what went in.
        if node in self._owner and position[self._evidence[node]] > position[node]:
            self._blame_operands(node, self._owner[node], self._evidence[node])

    def _accuse(self, value: fx.Node, group: Any, collective: fx.Node) -> None:
        self._selecting.discard(value)
        self._give_away(value, group, collective)

    def _blame_operands(self, node: fx.Node, group: Any, collective: fx.Node) -> None:
        if node in self._selecting:
            self._blame_conditions(node, group, collective)
            return
        rows = self._treats_rows_alone(node)
        if not rows and not (self._computes(node) and _changes_equals(collective)):
            return
        unproved = [each for each in node.all_input_nodes if not self.is_shared(each, group)]
        if not rows and len(unproved) > 1:
            return
        most = max((self._suspicion[each] for each in unproved), default=_NOT_AT_ALL)
        for operand in node.all_input_nodes:
            if self._suspicion[operand] == most:
                self._accuse(operand, group, collective)
        if rows:
            self._blame_conditions(node, group, collective)

    def _blame_conditions(self, node: fx.Node, group: Any, collective: fx.Node) -> None:
        """What is selected is one rank's, so the condition is; what it compares need not be."""
        at = self._of(node).selects_by
        named = node.args[at] if at is not None and at < len(node.args) else None
        for operand in node.all_input_nodes:
            if self.is_shared(operand, group):
                continue
            if operand is named or operand in self._conditions:
                if operand not in self._owner:
                    self._selecting.add(operand)
                self._give_away(operand, group, collective)


def _reduces_tokens(node: fx.Node) -> bool:
    """Whether it is a reduction without dims, or over the first: one over all tokens."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in _REDUCTIONS:
        return False
    if len(node.args) < 2:
        return not node.kwargs
    dims = node.args[1]
    if isinstance(dims, (list, tuple)):
        return not dims or 0 in dims
    return type(dims) is int and dims == 0


def _changes_equals(collective: fx.Node) -> bool:
    """Whether it makes something else of values that are the same on every rank."""
    # The group comes last, and may have any name.
    return not {"max", "min", "avg"}.intersection(
        argument for argument in collective.args[1:-1] if isinstance(argument, str)
    )
