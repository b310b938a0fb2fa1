"""What one more collective costs beside the bytes that it moves, on the GPUs of this host.

    torchrun --nproc-per-node 2 -m bench.gpu.collective_cost

One gather of n bytes a rank is timed beside two of n / 2: what two take longer is the fixed part.
The bytes that a large gather moves in that time are ``SequenceParallelConfig.collective_cost``.
"""

from __future__ import annotations

import json
import os
import statistics

import torch
import torch.distributed as dist

from .clock import timed

SMALL = [1 << power for power in range(16, 25)]
LARGE = 1 << 28
REPEATS, CALLS = 15, 20


def _gather(size: int, parts: int):
    """Gathers ``size`` bytes a rank in so many calls, recorded once as a CUDA graph."""
    ranks = dist.get_world_size()
    mine = [torch.zeros(size // parts // 2, dtype=torch.bfloat16, device="cuda")] * parts
    full = [torch.empty(each.numel() * ranks, dtype=each.dtype, device="cuda") for each in mine]

    def run() -> None:
        for shard, whole in zip(mine, full, strict=True):
            dist.all_gather_into_tensor(whole, shard)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def measure() -> dict[str, object]:
    """Returns plain data: fixed cost in microseconds by size, bandwidth, and the cost in bytes."""
    rows = {}
    for size in SMALL:
        one, two = timed(_gather(size, 1), REPEATS, CALLS), timed(_gather(size, 2), REPEATS, CALLS)
        rows[size] = {"one_us": one, "two_us": two, "fixed_us": two - one}
    large = timed(_gather(LARGE, 1), REPEATS, CALLS)
    others = dist.get_world_size() - 1
    bytes_per_us = LARGE * others / large
    fixed = statistics.median(row["fixed_us"] for row in rows.values())
    return {
        "device": torch.cuda.get_device_name(),
        "ranks": dist.get_world_size(),
        "torch": torch.__version__,
        "by_bytes_a_rank": rows,
        "fixed_us": fixed,
        "gigabytes_per_second": bytes_per_us / 1e3,
        "collective_cost": round(fixed * bytes_per_us),
    }


def main() -> None:
    """Measures on every rank; the first prints."""
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    found = measure()
    if dist.get_rank() == 0:
        print(json.dumps(found, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
