"""How many ranks a process group has, and which of them this process is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spfast.config import SequenceParallelConfig
from spfast.errors import ConfigError

__all__ = ["Group", "group_name", "known_groups", "resolve_group"]

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
    """

    name: str
    size: int
    rank: int
    problem: str = ""
    backend: str = field(default="", repr=False)

    @property
    def takes_float8(self) -> bool:
        """Whether its collectives take float8 values; gloo's do not."""
        return self.backend != "gloo"


def group_name(group: Any) -> str:
    """Returns the name of a group as a collective carries it: a name, or a ProcessGroup.

    Example:
        >>> group_name("tp:0")
        'tp:0'
    """
    return group if isinstance(group, str) else str(getattr(group, "group_name", group))


def resolve_group(group: Any, config: SequenceParallelConfig) -> Group:
    """Looks up a group's size and this process' rank in it.

    What the config gives wins; what it does not give comes from torch.distributed, or from vLLM's
    groups where vLLM is loaded.

    Args:
        group: The group as an all_reduce carries it: a name, or a ProcessGroup.
        config: May give ``tp_size``, ``tp_rank`` and ``group_name``.

    Raises:
        ConfigError: The group cannot be looked up; the message names the field to pass.

    Example:
        >>> resolve_group("tp:0", SequenceParallelConfig(tp_size=8, tp_rank=3))
        Group(name='tp:0', size=8, rank=3, problem='')
    """
    name = group_name(group)
    if config.group_name is not None and name != config.group_name:
        problem = f"its group '{name}' is not group_name='{config.group_name}'"
        return Group(name, 0, 0, problem)
    size, rank = config.tp_size, config.tp_rank
    if size is None or rank is None:
        found = _look_up(group, name)
        if found is None:
            missing = " and ".join(
                field for field, value in (("tp_size", size), ("tp_rank", rank)) if value is None
            )
            raise ConfigError(
                f"process group '{name}' is not known to torch.distributed in this process: "
                f"pass {missing} in the config, or initialise the group first"
            )
        size = found[0] if size is None else size
        rank = found[1] if rank is None else rank
    if not 0 <= rank < size:
        raise ConfigError(
            f"tp_rank={rank} is outside tp_size={size} of group '{name}': "
            f"pass a rank from 0 to {size - 1}"
        )
    problem = f"its group '{name}' has one rank: there is nothing to share" if size == 1 else ""
    return Group(name, size, rank, problem, _backend(group, name))


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
