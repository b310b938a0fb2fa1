"""Ranks as threads that write each other's slots: what kernels need of a group, on the CPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

LOCAL = threading.local()


class Slots:
    """What all ranks of one use share; every rank asks for uses in the same order."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.barrier = threading.Barrier(ranks, timeout=20)
        self.memory = [torch.zeros(1 << 16, dtype=torch.uint8) for _ in range(ranks)]


class Exchange:
    """As spfast.async_tp.exchange.Exchange; what is done aside is done at once."""

    def __init__(self, group: str, size: int, mine: bool = False) -> None:
        self._slots, self.rank = LOCAL.slots, LOCAL.rank
        self.ranks, self._size = self._slots.ranks, -(-size // 16) * 16
        self._count = self.ranks if mine else self.ranks - 1
        self._begun = self._is_aside = False

    def slot(
        self, owner: int, writer: int, shape: Sequence[int], dtype: torch.dtype, offset: int = 0
    ) -> torch.Tensor:
        assert self._begun, "the others may still read what is there"
        at = (writer - owner - 1) % self.ranks
        assert at < self._count
        return self._view(owner, at * self._size + offset, shape, dtype)

    def slots(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return self._view(self.rank, 0, (self._count, *shape), dtype)

    def _view(self, owner: int, at: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        size = dtype.itemsize * torch.Size(shape).numel()
        assert at + size <= self._count * self._size
        return self._slots.memory[owner][at : at + size].view(dtype).view(*shape)

    def barrier(self, channel: int) -> None:
        LOCAL.said.append("barrier aside" if self._is_aside else "barrier")
        self._slots.barrier.wait()
        self._begun = True

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        self._is_aside = True
        yield
        self._is_aside = False

    def mark(self) -> Any:
        return None

    def wait(self, mark: Any) -> None:
        pass

    def join(self) -> None:
        pass


def ranks_of(group: str) -> int:
    return int(LOCAL.slots.ranks)


def on_threads(ranks: int, call: Callable[[int], Any]) -> list[Any]:
    """What a call yields on each rank."""
    slots, found, errors = Slots(ranks), [None] * ranks, []

    def run(rank: int) -> None:
        LOCAL.slots, LOCAL.rank, LOCAL.said = slots, rank, []
        try:
            found[rank] = call(rank)
        except BaseException as error:
            errors.append(error)
            slots.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors:
        raise errors[0]
    return found
