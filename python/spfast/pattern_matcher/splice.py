"""Putting new nodes in the place of a match: where they go, and who then uses them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
import torch.utils._pytree as pytree
from torch._inductor.pattern_matcher import Match, _transfer_meta
from torch.fx import Graph, Node

from spfast.pattern_matcher.places import TAGS

__all__ = [
    "BACKEND",
    "REPLACES_AS_KNOWN",
    "insertion_point",
    "late_arguments",
    "makes_cycle",
    "restore_order",
    "splice",
]


# The backend whose counters count matches.
BACKEND: str = getattr(stock, "backend", "inductor")
# An older torch erases outputs that are still read, leaves dead nodes and hands on other metadata.
REPLACES_AS_KNOWN = (
    "pass_name" in inspect.signature(stock.ReplacementPatternEntry.replace_with_graph).parameters
)


def insertion_point(outputs: Sequence[Node | None]) -> Node:
    """The earliest output in graph order: all users of all outputs come after it."""
    found = [node for node in outputs if isinstance(node, Node)]
    return found[0] if len(found) == 1 else min(found)


def late_arguments(match: Match) -> list[Node]:
    """Arguments defined at or after the insertion point; only several outputs can cause it."""
    if len(match.ctx.outputs) < 2:
        return []
    point = insertion_point(match.output_nodes())
    late: list[Node] = []
    for value in (*match.args, *match.kwargs.values()):
        leaves = (value,) if isinstance(value, Node) else pytree.tree_leaves(value)
        late.extend(leaf for leaf in leaves if isinstance(leaf, Node) and not leaf < point)
    return late


def makes_cycle(match: Match, traced: torch.fx.GraphModule, args: Sequence[Any]) -> bool:
    """Whether a new value would be computed from itself: then no place in the graph is legal.

    An argument may depend on an output, whose users are about to read the new value. An output may
    also be an argument itself: then the new nodes go on reading the old value.

    Args:
        match: A match with late arguments.
        traced: The replacement.
        args: Its arguments.
    """
    place = {node: i for i, node in enumerate(match.output_nodes()) if isinstance(node, Node)}
    first = min(place)
    reads: list[set[int]] = []
    for index, (passed, needed) in enumerate(_sources(traced)):
        given = args[passed] if passed is not None else None
        found = {place[given]} - {index} if isinstance(given, Node) and given in place else set()
        pending = [args[i] for i in needed if isinstance(args[i], Node)]
        seen = set(pending)
        while pending:
            for operand in pending.pop().all_input_nodes:
                if operand in place:
                    found.add(place[operand])
                if operand not in seen and not operand < first:
                    seen.add(operand)
                    pending.append(operand)
        reads.append(found)
    # A new value that is computed from values without cycles is in no cycle itself.
    free: set[int] = set()
    for _ in reads:
        free |= {i for i, found in enumerate(reads) if found <= free}
    return len(free) < len(reads)


def _sources(traced: torch.fx.GraphModule) -> list[tuple[int | None, set[int]]]:
    """For each returned value: the argument that it is (or None), and all arguments it needs."""
    needs: dict[Node, set[int]] = {}
    passed: dict[Node, int] = {}
    returned: Any = ()
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            passed[node] = len(passed)
            needs[node] = {passed[node]}
        elif node.op == "output":
            returned = node.args[0]
        else:
            needs[node] = set().union(*(needs[operand] for operand in node.all_input_nodes))
    values = returned if isinstance(returned, (list, tuple)) else [returned]
    nodes = [value if isinstance(value, Node) else None for value in values]
    return [(None, set()) if node is None else (passed.get(node), needs[node]) for node in nodes]


def restore_order(first: Node, last: Node) -> None:
    """Moves each node that uses a later node behind that node; all others keep their order.

    Args:
        first: Where the stretch of the graph that may be out of order begins.
        last: Where it ends: everything after it is in order.
    """
    stretch = [first]
    while stretch[-1] is not last:
        stretch.append(stretch[-1].next)
    missing, waiting = set(stretch), dict[Node, list[Node]]()
    cursor = first.prev
    pending = stretch[::-1]
    while pending:
        node = pending.pop()
        needs = [operand for operand in node.all_input_nodes if operand in missing]
        if needs:
            waiting.setdefault(needs[-1], []).append(node)
            continue
        missing.discard(node)
        if cursor.next is not node:
            cursor.append(node)
        cursor = node
        pending.extend(reversed(waiting.pop(node, [])))


def _tag_inputs(node: Node, name: str, value: Any, stops: set[Any]) -> None:
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if current in seen or current in stops or not hasattr(current, "meta"):
            continue
        seen.add(current)
        current.meta[name] = value
        pending.extend(current.all_input_nodes)


def splice(
    match: Match,
    graph: Graph,
    args: Sequence[Any],
    create: Callable[[], tuple[Any, list[Node]]],
    returns: int,
    pass_name: str,
) -> list[Node]:
    """Creates the replacement before the match's earliest output and rewires the outputs' users.

    Args:
        match: The accepted match.
        graph: The graph.
        args: The replacement's arguments.
        create: Creates the nodes at the insertion point; returns the outputs and the nodes.
        returns: How many values the replacement returns.
        pass_name: What provenance records call this rewrite.

    Returns:
        The created nodes that are still there.
    """
    outputs = match.output_nodes()
    if len(outputs) not in (1, returns):
        raise AssertionError(f"the replacement returns {returns} values for {len(outputs)} outputs")
    with graph.inserting_before(insertion_point(outputs)):
        replacement, created = create()
    new_nodes = set(created)

    def outside(user: Node) -> bool:
        return user not in new_nodes

    def replace_one(old: Node, new: Node | None) -> None:
        if new is not None:
            _transfer_meta(new.meta, old, pass_name=pass_name)
            for tag in TAGS:
                if tag in old.meta:
                    stops = set(pytree.tree_leaves(list(args)))
                    _tag_inputs(new, tag, old.meta[tag], stops)
        old.replace_all_uses_with(new, delete_user_cb=outside)  # type: ignore[arg-type]
        if not old.users:
            graph.erase_node(old)

    def replace(old: Node | None, new: Any) -> None:
        if old is None:
            if new is not None:
                raise AssertionError("the replacement returns a value for an output that is None")
        elif new is None or isinstance(new, Node):
            replace_one(old, new)
        else:  # one packed value becomes several: its getitem users take them one by one
            for user in list(old.users):
                if user.op == "call_function" and user.target is operator.getitem:
                    replace(user, new[user.args[1]])
                else:
                    old.replace_all_uses_with(new)
            graph.erase_node(old)

    values = [replacement] if isinstance(replacement, Node) else replacement
    if len(outputs) == len(values):
        for old, new in zip(outputs, values, strict=True):
            replace(old, new)
    else:
        replace(outputs[0], values)
    match.erase_nodes()
    for node in reversed(created):
        higher_order = isinstance(node.target, torch._ops.HigherOrderOperator)
        if not node.users and not node.is_impure() and not higher_order:
            graph.erase_node(node)
    return [node for node in created if not node._erased]
