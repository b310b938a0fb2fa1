"""Runs the graphs of all ranks in one process, on real tensors, each until its next collective.

A rank is a generator that stops at every collective. A collective happens when all ranks of its
group stand at the same one; when no rank can go on, that is a :class:`Hang`, as on real ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from tests.pool.world import World

NAMESPACES = ("_c10d_functional", "vllm")


class Hang(Exception):
    """The ranks wait for each other for ever."""


class CannotRun(Exception):
    """An operator of a graph raised."""


class RowsLost(CannotRun):
    """A reduce_scatter got rows that do not divide."""


@dataclass
class Run:
    """What one run yielded.

    Attributes:
        outputs: of each rank.
        watched: for each watched name, its value on each rank, as it was when it was computed.
        collectives: how many calls of collectives each rank made.
    """

    outputs: list[Any]
    watched: dict[str, list[Any]] = field(default_factory=dict)
    collectives: list[int] = field(default_factory=list)


def is_collective(target: Any) -> bool:
    """Whether an operator joins ranks."""
    return (
        isinstance(target, torch._ops.OpOverload)
        and target.namespace in NAMESPACES
        and "wait_tensor" not in target.__name__
    )


def group_of(args: Sequence[Any]) -> str:
    """The group of a collective: always its last positional operand."""
    return str(args[-1])


def run(
    graphs: Sequence[fx.Graph],
    feeds: Sequence[Sequence[Any]],
    world: World,
    *,
    same_random: bool = False,
    watch: Collection[str] = (),
) -> Run:
    """Runs one graph a rank.

    Raises:
        Hang: no rank can go on.
        CannotRun: an operator raised; the message says where.
    """
    result = Run([None] * world.size, {name: [None] * world.size for name in watch})
    result.collectives = [0] * world.size
    states = random_states(world, same_random)
    ranks = [
        _rank(graph, feed, rank, states, result)
        for rank, (graph, feed) in enumerate(zip(graphs, feeds, strict=True))
    ]
    waiting: list[tuple[fx.Node, Any] | None] = [None] * world.size

    def go_on(rank: int, value: Any) -> None:
        try:
            waiting[rank] = ranks[rank].send(value)
        except StopIteration:
            waiting[rank] = None

    with torch.no_grad():
        for rank in range(world.size):
            go_on(rank, None)
        while any(each is not None for each in waiting):
            members = _ready(waiting, world)
            calls = [waiting[rank] for rank in members]
            node = calls[0][0]  # type: ignore[index]
            try:
                values = perform(node.target, [call[1] for call in calls if call], len(members))
            except CannotRun:
                raise
            except Exception as error:
                raise CannotRun(f"{node.name}: {type(error).__name__}: {error}") from error
            for rank, value in zip(members, values, strict=True):
                result.collectives[rank] += 1
                go_on(rank, value)
    return result


def random_states(world: World, same: bool) -> list[torch.Tensor]:
    """The state of the random numbers on each rank, at the start."""
    kept = torch.random.get_rng_state()
    states = [
        torch.random.manual_seed(17 if same else 17 + rank).get_state()
        for rank in range(world.size)
    ]
    torch.random.set_rng_state(kept)
    return states


def with_state(states: list[torch.Tensor], rank: int, target: Any, args: Any, kwargs: Any) -> Any:
    """Calls an operator with the random numbers of a rank."""
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return target(*args, **kwargs)
    torch.random.set_rng_state(states[rank])
    value = target(*args, **kwargs)
    states[rank] = torch.random.get_rng_state()
    return value


def _rank(
    graph: fx.Graph, feed: Sequence[Any], rank: int, states: list[torch.Tensor], result: Run
) -> Generator[tuple[fx.Node, Any], Any, None]:
    values: dict[fx.Node, Any] = {}
    left = iter(feed)

    def operand(node: fx.Node) -> Any:
        if node not in values:
            raise CannotRun(f"rank {rank}: {node.name} is read before it is made")
        return values[node]

    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = next(left)
        elif node.op == "output":
            result.outputs[rank] = fx.node.map_arg(node.args[0], operand)
            return
        elif node.op == "call_function":
            args = fx.node.map_arg(node.args, operand)
            kwargs = fx.node.map_arg(node.kwargs, operand)
            if is_collective(node.target):
                values[node] = yield node, args
            else:
                try:
                    values[node] = with_state(states, rank, node.target, args, kwargs)
                except Exception as error:
                    raise CannotRun(
                        f"rank {rank}, {node.format_node()}: {type(error).__name__}: {error}"
                    ) from error
        else:
            raise CannotRun(f"{node.name}: no run for {node.op}")
        if node.name in result.watched:
            value = values[node]
            kept = value.clone() if isinstance(value, torch.Tensor) else value
            result.watched[node.name][rank] = kept


def _ready(waiting: Sequence[tuple[fx.Node, Any] | None], world: World) -> tuple[int, ...]:
    for rank, call in enumerate(waiting):
        if call is None:
            continue
        name, group = str(call[0].target), group_of(call[1])
        members = world.members(group, rank)
        others = [waiting[each] for each in members]
        if all(
            each is not None and str(each[0].target) == name and group_of(each[1]) == group
            for each in others
        ):
            return members
    places = ", ".join(
        f"rank {rank} at {call[0].name} ({call[0].target}, {group_of(call[1])})"
        if call is not None
        else f"rank {rank} at its end"
        for rank, call in enumerate(waiting)
    )
    raise Hang(places)


# --- what each collective computes ---------------------------------------------------------------


def perform(target: Any, calls: Sequence[Sequence[Any]], size: int) -> list[Any]:
    """The results of one collective on all ranks of its group, in their order.

    Raises:
        RowsLost: rows of a reduce_scatter do not divide.
        CannotRun: the ranks' operands do not fit together.
    """
    name = target.__name__.split(".")[0]
    first = calls[0]
    mine = [call[0] for call in calls]
    if name.endswith("_coalesced") or name.endswith("_coalesced_"):
        single = name.replace("_coalesced", "")
        parts = [
            _single(single, [each[j] for each in mine], first, size) for j in range(len(mine[0]))
        ]
        return [[part[place] for part in parts] for place in range(size)]
    if target.namespace == "vllm" and name != "all_reduce":
        return _along(name, mine, first[1], size)
    return _single(name, mine, first, size, calls)


def _single(
    name: str, mine: Sequence[Any], first: Sequence[Any], size: int, calls: Sequence[Any] = ()
) -> list[Any]:
    if any(each.shape != mine[0].shape or each.dtype != mine[0].dtype for each in mine):
        raise CannotRun(f"{name}: {[(tuple(each.shape), each.dtype) for each in mine]}")
    if name in ("all_reduce", "all_reduce_"):
        total = _reduced(mine, first[1] if len(first) > 2 else "sum")
        if name == "all_reduce_":
            return [each.copy_(total) for each in mine]
        return [torch.empty_like(each).copy_(total) for each in mine]
    if name == "reduce_scatter_tensor":
        _expect(first[2], size)
        return _shares(_reduced(mine, first[1]), 0, size)
    if name == "all_gather_into_tensor":
        _expect(first[1], size)
        whole = torch.cat([each.contiguous() for each in mine])
        return [whole.clone() for _ in mine]
    if name in ("broadcast", "broadcast_"):
        if name == "broadcast_":
            source = mine[first[1]].clone()
            return [each.copy_(source) for each in mine]
        return [torch.empty_like(each).copy_(mine[first[1]]) for each in mine]
    if name == "all_to_all_single":
        parts = [each.split(list(call[2])) for each, call in zip(mine, calls, strict=True)]
        return [torch.cat([each[place] for each in parts]) for place in range(size)]
    raise CannotRun(f"no run for {name}")


def _along(name: str, mine: Sequence[torch.Tensor], dim: int, size: int) -> list[torch.Tensor]:
    if name == "reduce_scatter":
        return _shares(_reduced(mine, "sum"), dim, size)
    if name == "all_gather":
        whole = torch.cat([each.contiguous() for each in mine], dim)
        return [whole.clone() for _ in mine]
    raise CannotRun(f"no run for {name}")


def _expect(said: int, size: int) -> None:
    if said != size:
        raise CannotRun(f"a group of {size} ranks is said to have {said}")


def _shares(whole: torch.Tensor, dim: int, size: int) -> list[torch.Tensor]:
    rows = whole.shape[dim]
    if rows % size:
        raise RowsLost(f"{rows} rows over {size} ranks")
    return [
        whole.narrow(dim, place * (rows // size), rows // size).clone(
            memory_format=torch.contiguous_format
        )
        for place in range(size)
    ]


def _reduced(mine: Sequence[torch.Tensor], how: str) -> torch.Tensor:
    total = mine[0].clone(memory_format=torch.contiguous_format)
    for each in mine[1:]:
        if how in ("sum", "avg"):
            total = total + each
        elif how == "max":
            total = torch.maximum(total, each)
        elif how == "min":
            total = torch.minimum(total, each)
        elif how == "product":
            total = total * each
        else:
            raise CannotRun(f"no run for a reduction by {how}")
    return total / len(mine) if how == "avg" else total


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)
