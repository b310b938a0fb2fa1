"""One engine, one set of prompts: token ids and logprobs as JSON.

    python generate.py FOLDER OUT ENGINE_ARGUMENTS [before]

`before` is a statement that runs in this process alone, before vLLM is imported.
"""

import json
import random
import sys
from pathlib import Path

SINGLES = (6, 5, 32, 31, 15, 16, 17, 2, 1)
BATCH = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 63, 64, 101)


def make_model(folder: Path, kind: str = "llama") -> str:
    """A tiny checkpoint with random weights, the same each time."""
    import tokenizers
    import torch
    import transformers

    path = folder / f"tiny-{kind}"
    if not path.exists():
        torch.manual_seed(0)
        config = {
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "initializer_range": 0.15,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "float32",
        }
        name = {"llama": "Llama", "qwen3": "Qwen3"}[kind]
        made = getattr(transformers, f"{name}Config")(**config)
        model = getattr(transformers, f"{name}ForCausalLM")(made).float()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data.uniform_(0.5, 1.5)
        model.save_pretrained(path)
        words = {f"w{number}": number for number in range(config["vocab_size"])}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return str(path)


def generate(folder: Path, arguments: dict) -> dict:
    from vllm import LLM, SamplingParams, TokensPrompt

    kind = arguments.pop("kind", "llama")
    llm = LLM(
        model=str(folder / f"tiny-{kind}"),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=256,
        max_num_batched_tokens=arguments.pop("max_num_batched_tokens", 64),
        enable_chunked_prefill=True,
        max_num_seqs=8,
        seed=0,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **arguments,
    )
    draw = random.Random(0)
    sampling = SamplingParams(
        temperature=0, max_tokens=4, logprobs=3, ignore_eos=True, detokenize=False
    )

    def prompt(length: int) -> TokensPrompt:
        return TokensPrompt(prompt_token_ids=[draw.randrange(3, 512) for _ in range(length)])

    def pack(request) -> dict:
        said = request.outputs[0]
        return {
            "length": len(request.prompt_token_ids),
            "ids": list(said.token_ids),
            "logprobs": [
                {str(token): found.logprob for token, found in step.items()}
                for step in said.logprobs
            ],
        }

    singles = [llm.generate([prompt(n)], sampling, use_tqdm=False)[0] for n in SINGLES]
    batch = llm.generate([prompt(n) for n in BATCH], sampling, use_tqdm=False)
    return {"requests": [pack(each) for each in (*singles, *batch)]}


if __name__ == "__main__":
    folder, out, given, *before = sys.argv[1:]
    for statement in before:
        exec(statement)
    Path(out).write_text(json.dumps(generate(Path(folder), json.loads(given))))
