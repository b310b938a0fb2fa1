"""What a graph is given to be checked while it runs: checksums of values, and gates at collectives.

Operators that no compiler looks into: ``checksum`` makes a few numbers of a tensor, ``collect``
hands them to the check that runs, and ``gate`` lets a collective begin when all ranks are there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from spfast.errors import GraphError
from spfast.trust import Assumption
from spfast.verifier.across import Does, group_of, what_it_does

__all__ = ["SAMPLES", "Listener", "checksum", "listen", "tap"]

SAMPLES = 1024  # elements of a value that travel with its checksum, to tell rounding from nonsense
_CHUNK = 1 << 22  # elements that are summed at a time, so that a large value takes little memory


def checksum(value: torch.Tensor) -> torch.Tensor:
    """Returns numbers that are equal for equal bits, and hardly ever for others.

    Args:
        value: A tensor of any shape and dtype.

    Returns:
        int64 [1 + SAMPLES]: a sum over all bits that does not depend on the order of summation,
        and SAMPLES elements, evenly spread, as the bits of float32.

    Example:
        >>> int(checksum(torch.ones(3))[0]) == int(checksum(torch.ones(3))[0])
        True
    """
    flat = value.detach().contiguous().reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    samples = torch.zeros(SAMPLES, dtype=torch.float32, device=flat.device)
    if flat.numel():
        places = torch.arange(SAMPLES, device=flat.device) * max(flat.numel() // SAMPLES, 1)
        picked = flat[places % flat.numel()]
        samples = (picked.abs() if picked.is_complex() else picked).to(torch.float32)
        as_bytes = flat.view(torch.uint8)
        for start in range(0, as_bytes.numel(), _CHUNK):
            part = as_bytes[start : start + _CHUNK].to(torch.int64)
            place = torch.arange(start, start + part.numel(), device=flat.device)
            # Odd factors that differ from byte to byte: moved and swapped elements are seen.
            total = total + ((part + 1) * (place * 2654435761 + 1) * (place + 97)).sum()
    return torch.cat([total.reshape(1), samples.view(torch.int32).to(torch.int64)])


class Listener(Protocol):
    """The check that runs."""

    def at_collective(self, group: str) -> None:
        """Called before each collective of ``group``."""

    def collected(self, graph: int, sums: Sequence[torch.Tensor]) -> None:
        """Called with the checksums of one run of a graph."""


_listening: list[Listener] = []


class listen:
    """Hands what the operators see to ``listener`` while the context lasts."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __enter__(self) -> None:
        _listening.append(self._listener)

    def __exit__(self, *error: object) -> None:
        _listening.remove(self._listener)


@dataclass(frozen=True)
class _Operators:
    checksum: Any
    gate: Any
    collect: Any


@functools.cache
def _operators() -> _Operators:
    define = torch.library.custom_op
    make_sum = define(
        "spfast::checksum", checksum, mutates_args=(), schema="(Tensor value) -> Tensor"
    )
    make_sum.register_fake(lambda value: value.new_empty([1 + SAMPLES], dtype=torch.int64))

    def gate(x: torch.Tensor, group: str) -> torch.Tensor:
        for listener in _listening:
            listener.at_collective(group)
        return x.clone()

    hold = define("spfast::gate", gate, mutates_args=(), schema="(Tensor x, str group) -> Tensor")
    hold.register_fake(lambda x, group: x.clone())

    def collect(x: torch.Tensor, sums: list[torch.Tensor], graph: int) -> torch.Tensor:
        for listener in _listening:
            listener.collected(graph, sums)
        return x.clone()

    schema = "(Tensor x, Tensor[] sums, int graph) -> Tensor"
    hand_over = define("spfast::collect", collect, mutates_args=(), schema=schema)
    hand_over.register_fake(lambda x, sums, graph: x.clone())
    found = torch.ops.spfast
    return _Operators(found.checksum.default, found.gate.default, found.collect.default)


def tap(graph: fx.Graph, assumptions: Sequence[Assumption], number: int) -> None:
    """Puts a checksum on each assumed value, a gate before each collective, and hands all over.

    What the graph computes does not change.

    Args:
        graph: The graph, before any rewrite.
        assumptions: What is taken on trust in it.
        number: Tells this graph from the others of the check.

    Raises:
        GraphError: The graph returns no tensor, so that nothing would run.
    """
    call = _Caller(graph)
    named = {node.name: node for node in graph.nodes}
    for node in list(graph.nodes):
        what = what_it_does(node.op, node.target)
        if what.group is None or node.target._schema.is_mutable or what.does is Does.ANYTHING:
            continue
        group = group_of(what, node.args, node.kwargs)
        tensors = [operand for operand in node.all_input_nodes if _is_tensor(operand)]
        if group is not None and tensors:
            with graph.inserting_before(node):
                node.replace_input_with(tensors[0], call(_operators().gate, tensors[0], group))
    sums = []
    for one in assumptions:
        with graph.inserting_before(_place_after(named[one.value])):
            value = named[one.value]
            if not _is_tensor(value):
                value = call(torch.ops.aten.scalar_tensor.default, value, dtype=torch.float64)
            sums.append(call(_operators().checksum, value))
    if sums:
        _keep(graph, call, sums, number)


def _place_after(node: fx.Node) -> fx.Node:
    """What stands behind a node, and behind all inputs."""
    after = node.next
    while after.op == "placeholder":
        after = after.next
    return after


def _keep(graph: fx.Graph, call: Callable[..., fx.Node], sums: list[fx.Node], number: int) -> None:
    """Lets something that the graph returns or writes depend on the checksums."""
    output = graph.output_node()
    copies = [n for n in graph.nodes if n.target is torch.ops.aten.copy_.default]
    for reader in (output, *reversed(copies)):
        operands = [n for n in reader.all_input_nodes if _is_tensor(n)]
        if reader is not output:
            operands = [reader.args[1]]
        for operand in sorted(operands, key=lambda n: n.op == "placeholder"):
            with graph.inserting_before(reader):
                kept = call(_operators().collect, operand, sums, number)
            if reader is output:
                reader.replace_input_with(operand, kept)
            else:
                reader.update_arg(1, kept)
            return
    raise GraphError("the graph returns no tensor and writes to none: there is nothing to check")


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


class _Caller:
    """Adds calls to a graph, with their values."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        vals = (node.meta.get("val") for node in graph.nodes)
        tensors = (val for val in vals if isinstance(val, torch.Tensor))
        self._mode: Any = getattr(next(tensors, None), "fake_mode", None)

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self._graph.call_function(target, args, kwargs)
        if self._mode is not None:
            given = fx.node.map_arg((args, kwargs), lambda operand: operand.meta["val"])
            with self._mode:
                node.meta["val"] = target(*given[0], **given[1])
        return node
