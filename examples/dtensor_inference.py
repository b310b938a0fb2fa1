"""A module sharded by DTensor and compiled with the pass, on two CPU processes.

python examples/dtensor_inference.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import spfast
from spfast.testing.gloo import run_ranks

HIDDEN, INTERMEDIATE, LAYERS, TOKENS = 64, 256, 4, 32


class Block(nn.Module):
    """A norm, two matmuls, and the residual around them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.up = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.down = nn.Linear(INTERMEDIATE, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.silu(self.up(self.norm(x))))


def sharded_model(world_size: int) -> nn.Module:
    """The same weights on every rank, of which each keeps its share."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.RMSNorm(HIDDEN))
    mesh = init_device_mesh("cpu", (world_size,))
    # The rows of `up` and the columns of `down`: one all_reduce behind `down` adds them up.
    plan = {f"{i}.up": ColwiseParallel() for i in range(LAYERS)}
    plan |= {f"{i}.down": RowwiseParallel() for i in range(LAYERS)}
    return parallelize_module(model, mesh, plan)


def example(rank: int, world_size: int) -> str:
    """What one rank does."""
    model = sharded_model(world_size)
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.compile(model, fullgraph=True)(x)
        torch._dynamo.reset()

        sp = spfast.SequenceParallelismPass()  # group, size and rank are looked up
        # A graph from a cache is not rewritten again, and there would be nothing to tell of it.
        with torch._inductor.config.patch(post_grad_custom_pre_pass=sp, fx_graph_cache=False):
            found = torch.compile(model, fullgraph=True)(x)

    torch.testing.assert_close(found, expected)
    assert sp.result is not None and sp.matched_count > 0
    dist.barrier()
    return f"{sp.matched_count} all_reduces rewritten, outputs agree"


if __name__ == "__main__":
    for line in run_ranks(example, 2):
        print(line)
