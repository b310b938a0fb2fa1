"""Matrix products that hide their collectives, in a model that torch.compile compiles.

    python examples/async_tp.py

On GPUs with NVLink between them, `spfast.enable_async_tp()` takes the place of the stand-in here,
and without `async_tp_thresholds` the pass looks up which shapes are worth it.
"""

import pathlib
import sys

import torch

import spfast
from spfast.testing import async_tp_stand_in
from spfast.testing.gloo import run_ranks

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from dtensor_inference import HIDDEN, TOKENS, sharded_model  # noqa: E402


def example(rank: int, world_size: int) -> str:
    """What one rank does."""
    model = sharded_model(world_size)
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), async_tp_stand_in():
        expected = torch.compile(model, fullgraph=True)(x)
        torch._dynamo.reset()

        config = spfast.SequenceParallelConfig(async_tp=True, async_tp_thresholds=())
        sp = spfast.SequenceParallelismPass(config)
        settings = {"post_grad_custom_pre_pass": sp, "fx_graph_cache": False}
        with torch._inductor.config.patch(settings):
            found = torch.compile(model, fullgraph=True)(x)

    torch.testing.assert_close(found, expected)
    pairs = sp.result.async_tp
    return f"{int(sp.result)} all_reduces rewritten, {len(pairs.fused)} pairs fused, outputs agree"


if __name__ == "__main__":
    for line in run_ranks(example, 2):
        print(line)
