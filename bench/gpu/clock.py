"""How long a call takes on the device, the same for every script here."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.distributed as dist


def timed(call: Callable[[], object], repeats: int, calls: int) -> float:
    """Microseconds of one call on the device, back to back with others.

    Args:
        call: What is timed; every rank has to make it.
        repeats: How often; the median counts.
        calls: So many, one after the other, are timed as one.
    """
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        dist.barrier()
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)
