"""What padding tokens inside the graph costs, beside a host that pads and a count that needs none.

    torchrun --nproc-per-node 2 -m bench.gpu.padding
    torchrun --nproc-per-node 2 -m bench.gpu.padding --device cpu --tokens 33 --hidden 64 --calls 2

One layer's end, as a rewritten graph has it: reduce_scatter, add, norm, all_gather. Three times: of
a number of tokens that the ranks share evenly, of one less that the host has padded, and of one
less that the graph pads and cuts, as ``divisibility="pad"`` does. The first two are the same work.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .clock import timed

TOKENS, HIDDEN = [257, 1025, 4097, 8193], 8192
REPEATS, CALLS = 15, 20


def layer_end(tokens: int, hidden: int, device: str, pads: bool) -> Callable[[], Tensor]:
    """One call of the end of a layer.

    Args:
        tokens: How many there are in all; not padded, a multiple of the ranks.
        hidden: Features of each.
        device: Where.
        pads: Whether rows are added before the reduce_scatter and the shares' residual is cut from
            padded rows, and whether what is gathered is cut again.
    """
    ranks, rank = dist.get_world_size(), dist.get_rank()
    share = -(-tokens // ranks)
    part, residual = torch.randn(2, tokens, hidden, device=device, dtype=torch.bfloat16)
    weight = torch.ones(hidden, device=device, dtype=torch.bfloat16)
    own = torch.empty(share, hidden, device=device, dtype=torch.bfloat16)
    whole = torch.empty(share * ranks, hidden, device=device, dtype=torch.bfloat16)
    extra = share * ranks - tokens

    def call() -> Tensor:
        summed, added = part, residual
        if pads:
            summed, added = (F.pad(each, (0, 0, 0, extra)) for each in (part, residual))
        dist.reduce_scatter_tensor(own, summed)
        total = own + added[rank * share : (rank + 1) * share]
        dist.all_gather_into_tensor(whole, F.rms_norm(total, (hidden,), weight))
        return whole[:tokens] if pads else whole

    return call


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Returns plain data: microseconds of a call by the number of tokens, the three ways."""
    ranks, rows = dist.get_world_size(), {}
    for tokens in options.tokens:
        padded = -(-tokens // ranks) * ranks
        if padded == tokens:
            raise SystemExit(f"{tokens} tokens are a multiple of {ranks} ranks: nothing is padded")
        even, graph = (
            layer_end(count, options.hidden, options.device, pads)
            for count, pads in ((padded, False), (tokens, True))
        )
        assert graph().shape == (tokens, options.hidden) and even().shape[0] == padded
        by_host, in_graph = (
            timed(call, options.repeats, options.calls, options.device) for call in (even, graph)
        )
        rows[tokens] = {
            "host_pads_us": by_host,
            "graph_pads_us": in_graph,
            "more_percent": 100 * (in_graph / by_host - 1),
        }
    on_cpu = options.device == "cpu"
    return {
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
        "ranks": ranks,
        "torch": torch.__version__,
        "hidden": options.hidden,
        "by_tokens": rows,
    }


def main() -> None:
    """Measures on every rank; the first prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--calls", type=int, default=CALLS)
    options = parser.parse_args()
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    found = measure(options)
    if dist.get_rank() == 0:
        print(json.dumps(found, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
