"""A group's symmetric memory as the kernels use it.

It has slots that the other ranks write to, and a side stream for these writes.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed._symmetric_memory
import torch.distributed.distributed_c10d

from spfast.async_tp.pipelines import aligned

__all__ = ["Exchange", "ranks_of"]

# These are Any, for the type of a group's name depends on the version of torch.
_symmetric: Any = torch.distributed._symmetric_memory
_c10d: Any = torch.distributed.distributed_c10d
_Stream: Any = torch.cuda.Stream  # which torch leaves untyped
_Event: Any = torch.cuda.Event


def ranks_of(group: str) -> int:
    """How many ranks a group of this name has."""
    return int(_c10d._resolve_process_group(group).size())


class Exchange:
    """One use of a group's workspace: each rank has a slot for each of the others.

    A rank writes into the others' slots, and reads its own. Every use begins with a barrier, after
    which all ranks have read what was there before.

    Args:
        group: The group's name.
        size: Bytes of a slot.
        mine: Whether there is a slot for this rank's own part, too, after the others'.
    """

    def __init__(self, group: str, size: int, mine: bool = False) -> None:
        self.ranks = ranks_of(group)
        self._size = aligned(size)
        slots = self.ranks if mine else self.ranks - 1
        self._memory: Any = _symmetric.get_symm_mem_workspace(group, self._size * slots)
        self.rank: int = self._memory.rank
        self._here = torch.cuda.current_stream()
        self._side = _side(torch.cuda.current_device())
        self._marks = 0

    def slot(
        self, owner: int, writer: int, shape: Sequence[int], dtype: torch.dtype, offset: int = 0
    ) -> torch.Tensor:
        """What ``writer`` writes for ``owner``, ``offset`` bytes into its slot."""
        at = ((writer - owner - 1) % self.ranks) * self._size + offset
        found: torch.Tensor = self._memory.get_buffer(owner, shape, dtype, at // dtype.itemsize)
        return found

    def slots(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """All slots of this rank as one tensor, its own part last; a slot must be full."""
        assert math.prod(shape) * dtype.itemsize == self._size, "a slot would have a gap behind it"
        found: torch.Tensor = self._memory.get_buffer(self.rank, [self.ranks, *shape], dtype)
        return found

    def barrier(self, channel: int) -> None:
        """Waits until all ranks are here, in the stream that is current."""
        self._memory.barrier(channel=channel)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Runs what is asked for inside on the side stream, after all work of the current one."""
        stream = self._side.stream
        self._mark(self._here).wait(stream)
        torch.cuda.set_stream(stream)  # torch.cuda.stream takes the host several times as long
        try:
            yield
        finally:
            torch.cuda.set_stream(self._here)

    def mark(self) -> Any:
        """Remembers what was asked for aside so far."""
        return self._mark(self._side.stream)

    def wait(self, mark: Any) -> None:
        """Lets the current stream wait for what was remembered."""
        mark.wait(self._here)

    def join(self) -> None:
        """Lets the current stream wait for all that was asked for aside."""
        self.wait(self.mark())

    def _mark(self, stream: Any) -> Any:
        """Records an event that no other mark of this use has; events are kept, for one is slow."""
        events = self._side.events
        if self._marks == len(events):
            events.append(_Event())
        event = events[self._marks]
        self._marks += 1
        event.record(stream)
        return event


class _Side:
    """The side stream of a device, and events for all uses in turn.

    The stream has high priority: a barrier must not wait until a product leaves room for it.
    """

    def __init__(self, device: int) -> None:
        self.stream = _Stream(device, priority=-1)
        self.events: list[Any] = []


_side = functools.cache(_Side)
