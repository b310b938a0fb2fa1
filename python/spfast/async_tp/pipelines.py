"""How products and transfers between ranks take turns; the caller says what a product is.

Both pipelines push: a rank writes into the memory of another as soon as it has something. torch's
own kernels pull: they first copy rows to where the others may read them, and let two streams race
for which product is first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

__all__ = ["Memory", "aligned", "gather_and_multiply", "multiply_and_scatter"]

_ALIGNMENT = 16  # bytes; what a copy and a product of matrices read fastest


def aligned(size: int) -> int:
    """A size in bytes, rounded up so that what comes after it is aligned.

    Example:
        >>> aligned(16), aligned(17)
        (16, 32)
    """
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Memory(Protocol):
    """What :class:`spfast.async_tp.exchange.Exchange` is."""

    ranks: int
    rank: int

    def slot(
        self, owner: int, writer: int, shape: Sequence[int], dtype: torch.dtype, offset: int = 0
    ) -> torch.Tensor:
        """What ``writer`` writes for ``owner``, ``offset`` bytes into its slot."""

    def slots(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """All slots of this rank as one tensor, its own part last."""

    def barrier(self, channel: int) -> None:
        """Waits until all ranks are here."""

    def aside(self) -> Any:
        """Runs what is asked for inside beside the rest, after what was asked for so far."""

    def mark(self) -> Any:
        """Remembers what was asked for aside so far."""

    def wait(self, mark: Any) -> None:
        """Waits for what was remembered."""

    def join(self) -> None:
        """Waits for all that was asked for aside."""


def gather_and_multiply(
    memory: Memory,
    mine: Sequence[torch.Tensor],
    multiply: Callable[[Sequence[torch.Tensor], int], None],
    whole: torch.Tensor | None = None,
) -> None:
    """Multiplies this rank's rows while the rows of the others arrive, and then these.

    Args:
        memory: Memory with slots that hold ``mine``, one tensor after the other.
        mine: This rank's rows, and whatever goes with them, each contiguous.
        multiply: Is called once for each rank, with the rank's rows and its number.
        whole: Gets all ranks' rows (the first of ``mine``) in order; None if nobody asks for them.
    """
    ranks, rank = memory.ranks, memory.rank

    def slots(owner: int, writer: int) -> list[torch.Tensor]:
        found, offset = [], 0
        for each in mine:
            found.append(memory.slot(owner, writer, each.shape, each.dtype, offset))
            offset += aligned(each.nbytes)
        return found

    # This barrier is not on the side stream. A product takes all of a device, and a barrier that
    # comes a moment later would wait until the product ends. Nothing would be sent meanwhile.
    memory.barrier(0)
    arrived = []
    with memory.aside():
        for step in range(1, ranks):
            for theirs, each in zip(slots((rank + step) % ranks, rank), mine, strict=True):
                theirs.copy_(each)
            memory.barrier(1)  # what all wrote in this step is there
            arrived.append(memory.mark())
        if whole is not None:
            for source, kept in enumerate(whole.chunk(ranks)):
                kept.copy_(mine[0] if source == rank else slots(rank, source)[0])
    multiply(mine, rank)
    for step in range(1, ranks):
        memory.wait(arrived[step - 1])
        source = (rank - step) % ranks
        multiply(slots(rank, source), source)
    memory.join()


def multiply_and_scatter(
    memory: Memory,
    multiply: Callable[[int, torch.Tensor], None],
    like: torch.Tensor,
    mean: bool = False,
) -> torch.Tensor:
    """Multiplies the others' rows, sends each while the next is made, and adds up what arrived.

    Args:
        memory: Memory with slots for ``like``, one for this rank's own part, too.
        multiply: Is called once for each rank, with the rank and the tensor for its rows' product.
        like: Has the shape and dtype of one rank's rows. It is overwritten with the result.
        mean: Whether the sum is divided by the number of ranks.

    Returns:
        This rank's rows of the sum.
    """
    ranks, rank = memory.ranks, memory.rank
    with memory.aside():  # beside the first product; nothing is sent before that ends
        memory.barrier(0)
    sent = [like]
    for step in range(1, ranks):
        to = (rank + step) % ranks
        if step > 1:
            sent.append(torch.empty_like(like))
        multiply(to, sent[-1])
        with memory.aside():
            memory.slot(to, rank, like.shape, like.dtype).copy_(sent[-1])
            if step == ranks - 1:
                memory.barrier(1)
    own = memory.slot(rank, rank, like.shape, like.dtype)
    multiply(rank, own)
    memory.join()
    if ranks == 2 and not mean:  # rounds as a sum does, and takes a third of its time
        return torch.add(memory.slot(rank, 1 - rank, like.shape, like.dtype), own, out=like)
    parts = memory.slots(like.shape, like.dtype)
    return torch.mean(parts, 0, out=like) if mean else torch.sum(parts, 0, out=like)
