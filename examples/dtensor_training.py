"""One training step with the pass: the loss and every gradient are what they were without it.

    python examples/dtensor_training.py

AOTAutograd makes a forward and a backward graph of the model, and Inductor hands each to the pass.
"""

import pathlib
import sys

import torch
from torch import nn

import spfast
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


class Counting(spfast.SequenceParallelismPass):
    """The pass, which keeps what it did to each graph."""

    def __init__(self, config: spfast.SequenceParallelConfig | None = None) -> None:
        super().__init__(config)
        self.results: list[spfast.Result] = []

    def __call__(self, graph: torch.fx.Graph) -> None:
        super().__call__(graph)
        assert self.result is not None
        self.results.append(self.result)


def example(rank: int, world_size: int) -> str:
    """What one rank does."""
    model = sharded_model(world_size)
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    expected, gradients = step(model, x)
    torch._dynamo.reset()

    sp = Counting()
    # A graph from a cache is not rewritten again, and there would be nothing to tell of it.
    settings = {"post_grad_custom_pre_pass": sp, "fx_graph_cache": False}
    with torch._inductor.config.patch(settings):
        found, again = step(model, x)

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, gradients)
    counts = [int(result) for result in sp.results]
    assert len(counts) == 2 and counts[0] > 0
    forward, backward = counts
    return (
        f"{forward} all_reduces rewritten in the forward and {backward} in the backward; "
        f"loss and {len(again)} gradients agree"
    )


if __name__ == "__main__":
    for line in run_ranks(example, 2):
        print(line)
