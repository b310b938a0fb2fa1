"""How long a call takes on the device, the same for every script here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist


def timed(call: Callable[[], object], repeats: int, calls: int, device: str = "cuda") -> float:
    """Microseconds of one call on the device, back to back with others.

    Args:
        call: What is timed; every rank has to make it.
        repeats: How often; the median counts.
        calls: So many, one after the other, are timed as one.
        device: Where; on ``"cpu"``, by the clock on the wall, a script is only tried.
    """
    times = []
    for _ in range(repeats):
        if device == "cpu":
            dist.barrier()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            times.append((time.perf_counter() - start) * 1e6 / calls)
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        dist.barrier()
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)
