"""Which of their inputs the graphs that a graph calls write to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from spfast.verifier.effects import shared_operand, written_operands
from spfast.verifier.kinds import Writes, writes_of
from spfast.verifier.snapshot import Entry, Snapshot

__all__ = ["writes_at", "writes_of_graphs", "written_inside"]

_ANYTHING = Writes(None, ordered=True)


def writes_of_graphs(called: Mapping[str, Snapshot]) -> dict[str, Writes]:
    """Returns by path what each graph writes to, as if it were an operator with its inputs."""
    found: dict[str, Writes] = {}
    for path in sorted(called, key=lambda path: path.count("."), reverse=True):
        entries = called[path].entries
        written = _written_inputs(entries, written_inside(found, f"{path}."))
        inputs = [node for node, op, *_ in entries if op == "placeholder"]
        places = [(at, str(each.target)) for at, each in enumerate(inputs) if each in written]
        # A graph may have other effects, too. So its calls have to keep their place in the order.
        found[path] = Writes(tuple(places), ordered=True)
    return found


def written_inside(writes: Mapping[str, Writes], path: str) -> dict[str, Writes]:
    """The writes of the graphs that the graph at a path calls, by the names that it uses."""
    return {name.removeprefix(path): each for name, each in writes.items() if name.startswith(path)}


def writes_at(
    op: str, target: Any, args: tuple[Any, ...], called: Mapping[str, Writes]
) -> Writes | None:
    """What a call of graphs writes to; None where a node calls none of these.

    Each higher-order operator decides for itself which operand becomes which input. So where a
    graph of it writes to any input, all operands may be written to.
    """
    if op == "call_module":
        return called.get(target)
    if not called or not isinstance(target, torch._ops.HigherOrderOperator):
        return None
    passed = (each.target for each in args if isinstance(each, fx.Node) and each.op == "get_attr")
    graphs = [called[str(name)] for name in passed if str(name) in called]
    return _ANYTHING if any(each.arguments for each in graphs) else None


def _written_inputs(entries: Sequence[Entry], called: Mapping[str, Writes]) -> set[fx.Node]:
    roots: dict[fx.Node, fx.Node] = {}
    written: set[fx.Node] = set()
    for node, op, target, args, kwargs, _ in entries:
        source = shared_operand(target, args, kwargs) if op == "call_function" else None
        if source is not None:
            roots[node] = roots.get(source, source)
        writes = writes_at(op, target, args, called) or writes_of(op, target)
        if writes.any:
            for operand in written_operands(node, writes, args, kwargs):
                written.update(_may_be(roots.get(operand, operand), roots))
    return written


def _may_be(value: fx.Node, roots: Mapping[fx.Node, fx.Node]) -> Iterator[fx.Node]:
    """The values in whose memory a value may lie, for a call may return what it was given."""
    seen, stack = {value}, [value]
    while stack:
        one = stack.pop()
        yield one
        is_call = one.op == "call_module" or (
            isinstance(one.target, torch._ops.HigherOrderOperator)
        )
        for operand in one.all_input_nodes if is_call else ():
            root = roots.get(operand, operand)
            if root not in seen:
                seen.add(root)
                stack.append(root)
