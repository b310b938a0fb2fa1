"""A group's symmetric memory as the kernels use it.

Slots that the other ranks write, and a stream aside on which that is done.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from spfast.async_tp.pipelines import aligned

__all__ = ["Exchange", "ranks_of"]


def ranks_of(group: str) -> int:
    """How many ranks a group of this name has."""
    import torch.distributed as dist

    c10d: Any = dist.distributed_c10d
    return int(c10d._resolve_process_group(group).size())


class Exchange:
    """One use of a group's workspace: each rank has a slot for each of the others.

    A rank writes into the others' slots, and reads its own. The first barrier says that all have
    read what was there before, so that every use begins with one.

    Args:
        group: The group's name.
        size: Bytes of a slot.
        mine: Whether there is a slot for this rank's own part, too, after the others'.
    """

    def __init__(self, group: str, size: int, mine: bool = False) -> None:
        import torch.distributed._symmetric_memory as symmetric

        module: Any = symmetric  # what a group's name is, depends on the torch
        self.ranks = ranks_of(group)
        self._size = aligned(size)
        slots = self.ranks if mine else self.ranks - 1
        self._memory: Any = module.get_symm_mem_workspace(group, self._size * slots)
        self.rank: int = self._memory.rank
        self._here = torch.cuda.current_stream()
        self._aside = _stream_aside(torch.cuda.current_device())

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
    def aside(self, waits: bool = True) -> Iterator[None]:
        """What is asked for inside is done beside the current stream.

        Args:
            waits: Whether it begins after all that the current stream was asked for so far.
        """
        if waits:
            self._aside.wait_stream(self._here)
        torch.cuda.set_stream(self._aside)  # torch.cuda.stream takes the host several times as long
        try:
            yield
        finally:
            torch.cuda.set_stream(self._here)

    def mark(self) -> Any:
        """Remembers what was asked for aside so far."""
        return self._aside.record_event()

    def wait(self, mark: Any) -> None:
        """Lets the current stream wait for what was remembered."""
        self._here.wait_event(mark)

    def join(self) -> None:
        """Lets the current stream wait for all that was asked for aside."""
        self._here.wait_stream(self._aside)


@functools.cache
def _stream_aside(device: int) -> Any:
    """Of high priority: a barrier is not to wait until a product has left room for it."""
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
