"""From which shapes on a fused pair is faster than its two parts, on the GPUs of this host.

    torchrun --nproc-per-node 2 -m bench.gpu.pairs

For each dtype and hidden size, the token counts at which both forms of a pair gain: the rows that
it prints are for ``SequenceParallelConfig(async_tp_thresholds=...)``.
"""

from __future__ import annotations

import json
import os

import torch
import torch.distributed as dist

import spfast

from .clock import timed

TOKENS = (1024, 2048, 4096, 8192, 16384)
HIDDEN = (2048, 4096, 8192)
REPEATS, CALLS = 9, 10
c10d = torch.ops._c10d_functional


def _timed(call) -> float:
    """Microseconds of one call on the device, once it is warm."""
    for _ in range(3):
        call()
    return timed(call, REPEATS, CALLS)


def _matrix(rows: int, columns: int, itemsize: int) -> torch.Tensor:
    made = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)
    return made if itemsize == 2 else made.to(torch.float8_e4m3fn)


def _scatter(group: str, size: int, tokens: int, hidden: int, itemsize: int):
    """The down projection of an MLP, and the reduce_scatter after it: apart, and fused."""
    inner = 7 * hidden // 2 // size
    left, right = _matrix(tokens, inner, itemsize), _matrix(hidden, inner, itemsize).t()
    one = torch.ones((), device="cuda")

    def apart() -> None:
        if itemsize == 2:
            part = torch.mm(left, right)
        else:
            part = torch._scaled_mm(left, right, one, one, out_dtype=torch.bfloat16)
        c10d.wait_tensor(c10d.reduce_scatter_tensor(part, "sum", size, group))

    def fused() -> None:
        if itemsize == 2:
            torch.ops.symm_mem.fused_matmul_reduce_scatter(left, right, "sum", 0, group)
        else:
            torch.ops.symm_mem.fused_scaled_matmul_reduce_scatter(
                *(left, right, one, one, "sum", 0, 0, group, [tokens, hidden]),
                out_dtype=torch.bfloat16,
            )

    return apart, fused


def _gather(group: str, size: int, tokens: int, hidden: int, itemsize: int):
    """The gather before gate and up, and the two products: apart, and fused."""
    inner = 7 * hidden // 2 // size
    shard = _matrix(tokens // size, hidden, itemsize)
    rights = [_matrix(inner, hidden, itemsize).t() for _ in range(2)]
    one = torch.ones((), device="cuda")

    def apart() -> None:
        whole = c10d.wait_tensor(c10d.all_gather_into_tensor(shard, size, group))
        for right in rights:
            if itemsize == 2:
                torch.mm(whole, right)
            else:
                torch._scaled_mm(whole, right, one, one, out_dtype=torch.bfloat16)

    def fused() -> None:
        if itemsize == 2:
            torch.ops.symm_mem.fused_all_gather_matmul(shard, rights, 0, group, return_A=False)
        else:
            torch.ops.symm_mem.fused_all_gather_scaled_matmul(
                *(shard, rights, one, [one, one], 0, group, [None, None], [None, None]),
                *([torch.bfloat16] * 2, [False, False]),
            )

    return apart, fused


def measure() -> dict[str, object]:
    """Returns plain data: microseconds of each shape apart and fused, and the rows they give."""
    group, size = dist.group.WORLD.group_name, dist.get_world_size()
    measured, rows = [], []
    for itemsize in (2, 1):
        for hidden in HIDDEN:
            least = None
            for tokens in sorted(TOKENS, reverse=True):
                gains = []
                for pair in (_scatter, _gather):
                    apart, fused = map(_timed, pair(group, size, tokens, hidden, itemsize))
                    gains.append(fused < apart)
                    shape = {"itemsize": itemsize, "hidden": hidden, "tokens": tokens}
                    kind = pair.__name__.strip("_")
                    measured.append({**shape, "pair": kind, "apart_us": apart, "fused_us": fused})
                if not all(gains):
                    break
                least = tokens
            if least is not None:
                rows.append((itemsize, least, hidden))
    major, minor = torch.cuda.get_device_capability()
    return {
        "device": torch.cuda.get_device_name(),
        "ranks": size,
        "torch": torch.__version__,
        "measured": measured,
        "rows": [
            f'PairThreshold("cuda", {itemsize}, min_tokens={tokens}, min_hidden_size={hidden}, '
            f"major={major}, minor={minor})"
            for itemsize, tokens, hidden in rows
        ],
    }


def main() -> None:
    """Measures on every rank; the first prints."""
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    spfast.enable_async_tp()
    found = measure()
    if dist.get_rank() == 0:
        print(json.dumps(found, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
