"""One training step with the pass: the loss and every gradient are what they were without it.

    python examples/dtensor_training.py

Forward and backward are rewritten as one graph, before torch divides it: what is kept between the
two is one rank's rows.
"""

import pathlib
import sys

import torch
from torch import nn

from spfast.integrations.inductor import enable
from spfast.testing.gloo import run_ranks

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from dtensor_inference import HIDDEN, TOKENS, sharded_model  # noqa: E402


def step(model: nn.Module, x: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """The loss of one step, and this rank's share of each gradient."""
    model.zero_grad()
    loss = torch.compile(model, fullgraph=True)(x).square().mean()
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters()]
    return loss.item(), [getattr(grad, "_local_tensor", grad).clone() for grad in grads]


def example(rank: int, world_size: int) -> str:
    """What one rank does."""
    model = sharded_model(world_size)
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    expected, gradients = step(model, x)
    torch._dynamo.reset()

    # A graph from a cache is not rewritten again, and there would be nothing to tell of it.
    with enable() as sp, torch._inductor.config.patch(fx_graph_cache=False):
        found, again = step(model, x)

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, gradients)
    assert sp.joint.matched_count > 0
    return f"{sp.joint.matched_count} all_reduces rewritten, loss and {len(again)} gradients agree"


if __name__ == "__main__":
    for line in run_ranks(example, 2):
        print(line)
