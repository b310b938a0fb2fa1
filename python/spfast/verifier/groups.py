"""How large each process group is, and which of its ranks we are: from the graph and the config."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from spfast.ranks.groups import check_unambiguous, lies_across, lies_within

if TYPE_CHECKING:
    from spfast.config import SequenceParallelConfig

__all__ = ["Groups"]


class Groups:
    """Sizes and ranks by group name.

    The config's ``groups`` answer first; its ``tp_size`` and ``tp_rank`` for the group that it
    names, or for the only other one when it names none; then torch.distributed is asked. A rank
    that nobody knows is taken from the first slice of the graph that needs one, and every later
    slice must agree.
    """

    def __init__(
        self, config: SequenceParallelConfig | None, reduced: Collection[str] = ()
    ) -> None:
        """Takes what the config says.

        Args:
            config: The configuration, if there is one.
            reduced: The groups that the original graph reduces over.

        Raises:
            ConfigError: The config's rank may be of several of them.
        """
        self._config = config
        if config is not None:
            check_unambiguous(reduced, config)
        self._given = dict(config.groups) if config is not None else {}
        self._others = set(reduced) - self._given.keys()
        self._sizes: dict[str, tuple[int, str]] = {}
        self._ranks: dict[str, int | None] = {}
        self.assumes_divisible = config is not None and config.divisibility == "assume"

    def size_problem(self, group: str, size: int) -> str | None:
        """Says why ``size`` is not the size of ``group``; None when it may be."""
        known = self._sizes.get(group)
        if known is None:
            known = self._sizes[group] = self._look_up_size(group) or (size, "earlier collectives")
        if known[0] != size:
            return f"group {group!r} has {known[0]} ranks by {known[1]}, not {size}"
        return None

    def size(self, group: str) -> int | None:
        """Returns how many ranks ``group`` has, None when nobody knows."""
        if group not in self._sizes:
            found = self._look_up_size(group)
            if found is None:
                return None
            self._sizes[group] = found
        return self._sizes[group][0]

    def rank(self, group: str) -> int | None:
        """Returns this process' rank in ``group``, None when nobody knows."""
        if group not in self._ranks:
            self._ranks[group] = self._look_up_rank(group)
        return self._ranks[group]

    def lies_within(self, inner: str, outer: str) -> bool:
        """Whether all ranks of ``inner`` are known to be ranks of ``outer``."""
        return lies_within(inner, outer, self._config)

    def cross(self, group: str, other: str) -> bool:
        """Whether the two are known to have one rank in common."""
        return lies_across(group, other, self._config)

    def learn_rank(self, group: str, rank: int) -> None:
        """Takes ``rank`` for a group that nobody knows the rank of."""
        self._ranks[group] = rank

    def _configured(self, group: str) -> bool:
        if self._config is None or self._config.group_name is not None:
            return self._config is not None and self._config.group_name == group
        # The config's one size says nothing where the graph reduces over several groups, nor of a
        # group that it does not reduce over.
        return self._others in (set(), {group})

    def _look_up_size(self, group: str) -> tuple[int, str] | None:
        given = self._given.get(group)
        if given is not None:
            return given[0], "the config"
        if self._configured(group) and self._config is not None and self._config.tp_size:
            return self._config.tp_size, "the config"
        found = _process_group(group)
        return None if found is None else (found.size(), "torch.distributed")

    def _look_up_rank(self, group: str) -> int | None:
        given = self._given.get(group)
        if given is not None:
            return given[1]
        if self._configured(group) and self._config is not None:
            if self._config.tp_rank is not None:
                return self._config.tp_rank
        found = _process_group(group)
        return None if found is None else found.rank()


def _process_group(group: str) -> dist.ProcessGroup | None:
    if not dist.is_available() or not dist.is_initialized():
        return None
    try:
        resolve: Any = vars(dist.distributed_c10d)["_resolve_process_group"]
        found: dist.ProcessGroup = resolve(group)
    except (RuntimeError, ValueError, KeyError, LookupError):
        return None
    return found
