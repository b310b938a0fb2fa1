"""A Hugging Face Llama, sharded by transformers' own plan, compiled with the pass.

    python examples/hf_tp_plan.py

A checkpoint would be loaded by `AutoModelForCausalLM.from_pretrained(name, tp_plan="auto")` under
torchrun; this one is small and random, is written to a folder, and is loaded in the same way.
"""

import os
import tempfile

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig

import spfast
from spfast.testing.gloo import run_ranks

CONFIG = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=8,
    num_key_value_heads=4,
    num_hidden_layers=2,
    vocab_size=256,
    tie_word_embeddings=False,
)


def example(rank: int, world_size: int, folder: str) -> str:
    """What one rank does."""
    # What torchrun would have set: transformers asks for it.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    model = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto").eval()
    ids = torch.arange(32).reshape(1, 32)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        sp = spfast.SequenceParallelismPass()
        # A graph from a cache is not rewritten again, and there would be nothing to tell of it.
        with torch._inductor.config.patch(post_grad_custom_pre_pass=sp, fx_graph_cache=False):
            found = torch.compile(model)(ids, use_cache=False).logits

    torch.testing.assert_close(found, expected)
    assert sp.result is not None and sp.matched_count > 0
    dist.barrier()
    return f"{sp.matched_count} all_reduces rewritten, logits agree"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(CONFIG).save_pretrained(folder)
        for line in run_ranks(example, 2, (folder,)):
            print(line)


if __name__ == "__main__":
    main()
