"""Runs the graphs of all ranks in one process, in lockstep, on real tensors.

Every rank has its own graph (they differ where a rank takes its own rows). Each is run up to its
next collective; when all ranks of the group stand at the same one, it is performed and they go on.
That finds wrong rows, wrong shapes and collectives in a different order on different ranks, with no
process group and no accelerator.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from spfast.errors import SpfastError
from spfast.testing.collectives import CollectiveCall, collective_name, is_wait, perform, read_call
from spfast.testing.fused import fused_steps, is_fused

GroupMap = Mapping[str, Sequence[int] | Sequence[Sequence[int]]]


class LockstepError(SpfastError, RuntimeError):
    """The graphs of the ranks do not fit together, or a node cannot be run."""


@dataclass
class _Rank:
    """One rank: its suspended run, and the collective it stands at."""

    index: int
    run: Generator[CollectiveCall, torch.Tensor, Any]
    node: fx.Node | None = None
    call: CollectiveCall | None = None
    output: Any = None
    done: bool = False
    position: list[fx.Node] = field(default_factory=list)


def run_lockstep(
    graphs: Sequence[fx.Graph | fx.GraphModule],
    inputs: Sequence[Sequence[Any]],
    groups: GroupMap | None = None,
) -> list[Any]:
    """Runs one graph a rank together and returns what each of them returns.

    Inputs are used as they are: an op that writes to an input writes to the tensor that was passed.

    Args:
        graphs: the graph of each rank. A ``fx.Graph`` needs no module unless it has get_attr or
            call_module nodes.
        inputs: for each rank, the values of its placeholders in order (tensors; ints for symbolic
            sizes).
        groups: for each group name, its ranks in order, or several disjoint lists of ranks where
            the ranks know different groups by one name. A name that is missing stands for all
            ranks.

    Returns:
        For each rank, the value of its output node.

    Raises:
        LockstepError: the ranks disagree on a collective (the message names node and rank), one of
            them waits for a rank that never comes, or a node fails.

    Example:
        >>> import torch
        >>> from torch import fx
        >>> from spfast.testing import ops
        >>> from spfast.testing.lockstep import run_lockstep
        >>> _ = ops.declare()
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> y = graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
        >>> _ = graph.output(y)
        >>> run_lockstep([graph, graph], [[torch.ones(2)], [torch.ones(2)]])[0]
        tensor([2., 2.])
    """
    if len(graphs) != len(inputs):
        raise LockstepError(
            f"{len(graphs)} graphs but inputs for {len(inputs)} ranks: pass one list a rank"
        )
    ranks: list[_Rank] = []
    for index, (graph, values) in enumerate(zip(graphs, inputs, strict=True)):
        position: list[fx.Node] = []
        ranks.append(_Rank(index, _run(graph, values, index, position), position=position))
    members = _Groups(groups, len(ranks))
    with torch.no_grad():
        for rank in ranks:
            _advance(rank, None)
        while not all(rank.done for rank in ranks):
            ready = _ready_group(ranks, members)
            calls = [rank.call for rank in ready if rank.call is not None]
            _check_agreement(ready)
            try:
                results = perform(calls)
            except (ValueError, NotImplementedError) as error:
                raise LockstepError(f"{_where(ready[0])}: {error}") from error
            for rank, result in zip(ready, results, strict=True):
                _advance(rank, result)
    return [rank.output for rank in ranks]


class _Groups:
    """Which ranks meet in a collective."""

    def __init__(self, groups: GroupMap | None, world_size: int) -> None:
        self._everybody = tuple(range(world_size))
        self._parts: dict[str, list[tuple[int, ...]]] = {}
        for name, ranks in (groups or {}).items():
            nested = [entry for entry in ranks if not isinstance(entry, int)]
            flat = tuple(entry for entry in ranks if isinstance(entry, int))
            self._parts[name] = [tuple(part) for part in nested] if nested else [flat]
            for rank in (rank for part in self._parts[name] for rank in part):
                if not 0 <= rank < world_size:
                    raise LockstepError(
                        f"group {name!r} names rank {rank}, but there are {world_size} ranks"
                    )

    def of(self, name: str, rank: int) -> tuple[int, ...]:
        """The ranks of the group called ``name`` that ``rank`` is in."""
        if name not in self._parts:
            return self._everybody
        for part in self._parts[name]:
            if rank in part:
                return part
        raise LockstepError(
            f"rank {rank} calls a collective of group {name!r}, of which it is no member"
        )


def _ready_group(ranks: Sequence[_Rank], members: _Groups) -> list[_Rank]:
    """The ranks of one group that all stand at a collective of that group, in group order."""
    for rank in ranks:
        if rank.call is None:
            continue
        group = [ranks[index] for index in members.of(rank.call.group, rank.index)]
        if all(peer.call is not None and peer.call.group == rank.call.group for peer in group):
            return group
    waiting = "; ".join(
        f"{_where(rank)} waits in {rank.call.kind} of group {rank.call.group!r}"
        if rank.call
        else f"rank {rank.index} has ended"
        for rank in ranks
    )
    raise LockstepError(f"the ranks would hang: {waiting}")


def _check_agreement(ready: Sequence[_Rank]) -> None:
    first = ready[0]
    assert first.call is not None
    expected = first.call.agreement()
    for rank in ready[1:]:
        assert rank.call is not None
        for key, value in rank.call.agreement().items():
            if value != expected[key]:
                raise LockstepError(
                    f"{_where(rank)} disagrees with {_where(first)} on the {key} of a collective "
                    f"of group {first.call.group!r}: {value} against {expected[key]}"
                )


def _where(rank: _Rank) -> str:
    return f"rank {rank.index} at node {rank.position[-1].name if rank.position else '<start>'}"


def _advance(rank: _Rank, result: torch.Tensor | None) -> None:
    """Runs a rank up to its next collective or to its end."""
    try:
        rank.call = next(rank.run) if result is None else rank.run.send(result)
    except StopIteration as stop:
        rank.call, rank.output, rank.done = None, stop.value, True


def _run(
    graph: fx.Graph | fx.GraphModule, inputs: Sequence[Any], rank: int, position: list[fx.Node]
) -> Generator[CollectiveCall, torch.Tensor, Any]:
    """Interprets a graph; yields at each collective and is sent its result."""
    module = graph if isinstance(graph, fx.GraphModule) else graph.owning_module
    nodes = (graph.graph if isinstance(graph, fx.GraphModule) else graph).nodes
    wanted = sum(node.op == "placeholder" for node in nodes)
    if wanted != len(inputs):
        raise LockstepError(
            f"rank {rank}: the graph has {wanted} placeholders but {len(inputs)} inputs were given"
        )
    device = next((value.device for value in inputs if isinstance(value, torch.Tensor)), None)
    values: dict[fx.Node, Any] = {}
    arguments = iter(inputs)

    def resolve(value: Any) -> Any:
        # A graph captured for another device is run where its inputs are.
        if isinstance(value, torch.device) and device is not None:
            return device
        return fx.node.map_arg(value, values.__getitem__) if isinstance(value, fx.Node) else value

    for node in nodes:
        position.append(node)
        if node.op == "placeholder":
            values[node] = next(arguments)
            continue
        try:
            args = fx.node.map_aggregate(node.args, resolve)
            kwargs = fx.node.map_aggregate(node.kwargs, resolve)
            if node.op == "output":
                return args[0]
            if node.op == "call_function" and is_fused(node.target):
                values[node] = yield from fused_steps(node.target, args, kwargs)
                continue
            name = collective_name(node.target) if node.op == "call_function" else None
            call = read_call(node.target, args, kwargs) if name else None
            if call is None:
                is_waiting = name is not None and is_wait(name)
                values[node] = args[0] if is_waiting else _execute(node, args, kwargs, module)
                continue
        except LockstepError:
            raise
        except Exception as error:
            raise LockstepError(
                f"rank {rank} at node {node.name} ({node.target}): {error}"
            ) from error
        values[node] = yield call
    raise LockstepError(f"rank {rank}: the graph has no output node")


def _execute(node: fx.Node, args: Any, kwargs: Any, module: torch.nn.Module | None) -> Any:
    if node.op == "call_function":
        assert callable(node.target)
        return node.target(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if module is None:
        raise LockstepError(
            f"node {node.name} is a {node.op}: pass the GraphModule, not the bare graph"
        )
    attribute: Any = module
    for part in str(node.target).split("."):
        attribute = getattr(attribute, part)
    return attribute if node.op == "get_attr" else attribute(*args, **kwargs)
