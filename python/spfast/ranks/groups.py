"""How many ranks a process group has, and which of them this process is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from spfast.config import SequenceParallelConfig
from spfast.errors import ConfigError

__all__ = [
    "Group",
    "check_unambiguous",
    "group_name",
    "known_groups",
    "lies_across",
    "lies_within",
    "resolve_group",
    "resolve_groups",
]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Group:
    """A process group as a graph names it.

    Attributes:
        name: Its name.
        size: Its number of ranks.
        rank: This process' rank in it.
        problem: Why its all_reduces stay as they are; empty where they do not.
        backend: What carries its collectives, as torch.distributed names it; empty where it is not
            known there.
        within: The other groups of the graph that all of its ranks are in.
        crosses: The other groups of the graph with which it has one rank in common.
    """

    name: str
    size: int
    rank: int
    problem: str = ""
    backend: str = field(default="", repr=False)
    within: tuple[str, ...] = field(default=(), repr=False)
    crosses: tuple[str, ...] = field(default=(), repr=False)

    @property
    def takes_float8(self) -> bool:
        """Whether its collectives take float8 values; gloo's do not."""
        return self.backend != "gloo"


def group_name(group: Any) -> str:
    """Returns the name of a group as a collective carries it: a name, or a ProcessGroup.

    Empty for None: a collective that carries none.

    Example:
        >>> group_name("tp:0")
        'tp:0'
    """
    if group is None:
        return ""
    return group if isinstance(group, str) else str(getattr(group, "group_name", group))


def resolve_groups(
    groups: Iterable[Any], config: SequenceParallelConfig, others: Iterable[str] = ()
) -> list[Group]:
    """Answers for all the groups that a graph reduces over, in their order.

    Args:
        groups: Each group as :func:`resolve_group` takes it.
        config: May give sizes and ranks.
        others: The names of groups that a graph names and does not reduce over. Each follows as a
            group of no size: only how it lies to the others is asked.

    Raises:
        ConfigError: A group cannot be looked up; or there are several, and the config gives one
            rank or size without saying of which.

    Example:
        >>> config = SequenceParallelConfig(groups={"tp": (4, 1), "ep": (2, 0)})
        >>> [(group.size, group.rank) for group in resolve_groups(["tp", "ep"], config)]
        [(4, 1), (2, 0)]
    """
    groups = list(groups)
    check_unambiguous(map(group_name, groups), config)
    given = dict(config.groups)
    found = [_resolve(group, config, given) for group in groups]
    if config.tp_size is not None and len(_spoken_of(map(group_name, groups), config)) > 1:
        for group in groups:
            _check_size(group, config, given)
    found += [Group(name, 0, 0) for name in others]
    if len(found) < 2:
        return found
    around = _around([group.name for group in found if group.size != 1], config)
    across = _across(list(dict.fromkeys(group.name for group in found)), config)
    return [
        replace(one, within=around.get(one.name, ()), crosses=across.get(one.name, ()))
        for one in found
    ]


# Where a graph names more groups than this, it is not asked which of them cross.
_FEW = 63


def _across(names: Sequence[str], config: SequenceParallelConfig) -> dict[str, tuple[str, ...]]:
    """For each group those that it is known to cross."""
    if len(names) > _FEW:
        return {}
    return {
        name: tuple(other for other in names if lies_across(name, other, config)) for name in names
    }


def _around(names: Sequence[str], config: SequenceParallelConfig) -> dict[str, tuple[str, ...]]:
    """For each group those that it is known to lie within; only pairs that may be are asked for."""
    given = dict(config.groups)
    factors = {size for size, _ in given.values() if size > 1}
    ranked = {name for name in names if _ask(name, name, _ranks) is not None}
    by_size: dict[int, list[str]] = {}
    for name in names:
        if name in given:
            by_size.setdefault(given[name][0], []).append(name)
    found = {}
    for inner in names:
        may = set(ranked) if inner in ranked else set()
        if inner in given:
            for size in {given[inner][0] * factor for factor in factors} & by_size.keys():
                may.update(by_size[size])
        holds = {name for name in may if lies_within(inner, name, config)}
        found[inner] = tuple(name for name in names if name in holds) if holds else ()
    return found


def lies_within(inner: str, outer: str, config: SequenceParallelConfig | None) -> bool:
    """Whether all ranks of one group are known to be in another.

    torch.distributed knows the ranks. Where it does not, the sizes tell if the config gives that of
    a third group: one of 8 ranks beside groups of 2 and 4 holds both.

    Example:
        >>> config = SequenceParallelConfig(groups={"tp": (2, 0), "dp": (4, 0), "all": (8, 0)})
        >>> lies_within("tp", "all", config), lies_within("tp", "dp", config)
        (True, False)
    """
    if inner == outer:
        return False
    ranks = [_ask(name, name, _ranks) for name in (inner, outer)]
    if ranks[0] is not None and ranks[1] is not None:
        return ranks[0] <= ranks[1]
    given = dict(config.groups) if config is not None else {}
    sizes = {name: size for name, (size, _) in given.items()}
    if inner not in sizes or outer not in sizes:
        return False
    others = (size for name, size in sizes.items() if name not in (inner, outer))
    return any(size > 1 and sizes[inner] * size == sizes[outer] for size in others)


def lies_across(name: str, other: str, config: SequenceParallelConfig | None) -> bool:
    """Whether two groups are known to have one rank in common, as axes of a mesh do.

    Where torch.distributed does not know their ranks, the sizes tell: groups of 3 and of 2, or of 2
    and of 2, are none within the other; nor are 4 and 2 where there is one of 8 that both span.

    Example:
        >>> config = SequenceParallelConfig(groups={"tp": (4, 0), "cp": (2, 0)})
        >>> lies_across("tp", "cp", config)  # "cp" may be a part of "tp"
        False
        >>> config = SequenceParallelConfig(groups={"tp": (4, 0), "cp": (2, 0), "all": (8, 0)})
        >>> lies_across("tp", "cp", config)
        True
    """
    if name == other:
        return False
    ranks = [_ask(each, each, _ranks) for each in (name, other)]
    if ranks[0] is not None and ranks[1] is not None:
        return len(ranks[0] & ranks[1]) == 1
    given = dict(config.groups) if config is not None else {}
    sizes = {each: size for each, (size, _) in given.items()}
    if name not in sizes or other not in sizes:
        return False
    one, two = sizes[name], sizes[other]
    may_hold = one != two and 1 not in (one, two) and max(one, two) % min(one, two) == 0
    spanned = any(size == one * two for each, size in sizes.items() if each not in (name, other))
    nested = lies_within(name, other, config) or lies_within(other, name, config)
    return (spanned or not may_hold) and not nested


def _ranks(group: Any) -> frozenset[int]:
    import torch.distributed as dist

    return frozenset(dist.get_process_group_ranks(group))


def check_unambiguous(names: Iterable[str], config: SequenceParallelConfig) -> None:
    """Refuses a ``tp_rank`` that could be of several groups.

    Args:
        names: The groups that are reduced over; empty for one without a name.
        config: What speaks of them.

    Raises:
        ConfigError: With the groups' names.

    Example:
        >>> config = SequenceParallelConfig(tp_size=2, tp_rank=0)
        >>> check_unambiguous(["tp"], config)
        >>> check_unambiguous(["tp", "ep"], config)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        spfast.errors.ConfigError: the graph reduces over the groups 'ep', 'tp', and tp_rank=0 ...
    """
    several = _spoken_of(names, config)
    if config.tp_rank is None or len(several) < 2:
        return
    named = [name for name in several if name]
    shown = [*map(repr, named), *(["one without a name"] if "" in several else [])]
    raise ConfigError(
        f"the graph reduces over the groups {', '.join(shown)}, and "
        f"tp_rank={config.tp_rank} does not say of which: pass group_name, or "
        f"groups={{{', '.join(f'{name!r}: (size, rank)' for name in named)}}}"
    )


def _spoken_of(names: Iterable[str], config: SequenceParallelConfig) -> list[str]:
    """The groups that ``tp_size`` and ``tp_rank`` may be of."""
    if config.group_name is not None:
        return [config.group_name]
    return sorted(set(names) - dict(config.groups).keys())


def _check_size(group: Any, config: SequenceParallelConfig, given: Mapping[str, Any]) -> None:
    name = group_name(group)
    known = None if name in given else _look_up(group, name)
    if known is not None and known[0] != config.tp_size:
        raise ConfigError(
            f"tp_size={config.tp_size} is not the size of group '{name}', which has {known[0]} "
            f"ranks: pass group_name, or groups={{'{name}': (size, rank)}}"
        )


def resolve_group(group: Any, config: SequenceParallelConfig) -> Group:
    """Looks up a group's size and this process' rank in it.

    What the config gives wins; what it does not give comes from torch.distributed, or from vLLM's
    groups where vLLM is loaded.

    Args:
        group: The group as an all_reduce carries it: a name, or a ProcessGroup; None where it
            carries none, and the config's only group is meant.
        config: May give ``groups``, ``tp_size``, ``tp_rank`` and ``group_name``.

    Raises:
        ConfigError: The group cannot be looked up; the message names the field to pass.

    Example:
        >>> resolve_group("tp:0", SequenceParallelConfig(tp_size=8, tp_rank=3))
        Group(name='tp:0', size=8, rank=3, problem='')
    """
    return _resolve(group, config, dict(config.groups))


def _resolve(
    group: Any, config: SequenceParallelConfig, given: Mapping[str, tuple[int, int]]
) -> Group:
    name = group_name(group)
    if group is None:
        name = config.group_name or (next(iter(given)) if len(given) == 1 else "")
    called = f"group '{name}'" if name else "group"
    if config.group_name is not None and name != config.group_name:
        return Group(name, 0, 0, f"its {called} is not group_name='{config.group_name}'")
    size: int | None
    rank: int | None
    size, rank = given.get(name, (config.tp_size, config.tp_rank))
    if size is None or rank is None:
        missing = " and ".join(
            field for field, value in (("tp_size", size), ("tp_rank", rank)) if value is None
        )
        if not name:
            raise ConfigError(
                f"an all_reduce of the graph names no group: pass {missing} in the config, or "
                f"group_name"
            )
        found = _look_up(name if group is None else group, name)
        if found is None:
            raise ConfigError(
                f"process group '{name}' is not known to torch.distributed in this process: "
                f"pass {missing} in the config, or initialise the group first"
            )
        size = found[0] if size is None else size
        rank = found[1] if rank is None else rank
    if not 0 <= rank < size:
        raise ConfigError(
            f"tp_rank={rank} is outside tp_size={size} of {called}: "
            f"pass a rank from 0 to {size - 1}"
        )
    problem = f"its {called} has one rank: there is nothing to share" if size == 1 else ""
    return Group(name, size, rank, problem, _backend(name if group is None else group, name))


def _look_up(group: Any, name: str) -> tuple[int, int] | None:
    return _from_torch(group, name) or _from_vllm(name)


def _from_torch(group: Any, name: str) -> tuple[int, int] | None:
    return _ask(group, name, lambda found: (int(found.size()), int(found.rank())))


def _backend(group: Any, name: str) -> str:
    import torch.distributed as dist

    return _ask(group, name, lambda found: str(dist.get_backend(found))) or ""


def _ask(group: Any, name: str, what: Callable[[Any], _T]) -> _T | None:
    """Asks torch's process group something; None where there is none of that name."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return None
    try:
        c10d: Any = dist.distributed_c10d
        return what(c10d._resolve_process_group(name) if isinstance(group, str) else group)
    except Exception:  # an unknown name raises whatever the C++ registry does
        return None


def _from_vllm(name: str) -> tuple[int, int] | None:
    state = sys.modules.get("vllm.distributed.parallel_state")
    reference = getattr(state, "_groups", {}).get(name)
    group = reference() if reference is not None else None
    if group is None:
        return None
    return int(group.world_size), int(group.rank_in_group)


def known_groups() -> tuple[tuple[str, int, int, str], ...]:
    """Returns (name, size, rank, backend) of each of torch's groups that this process is in.

    Example:
        >>> known_groups()
        ()
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return ()
    c10d: Any = dist.distributed_c10d
    names = c10d._world.pg_names
    return tuple(
        sorted(
            (name, group.size(), group.rank(), str(dist.get_backend(group)))
            for group, name in names.items()
        )
    )
