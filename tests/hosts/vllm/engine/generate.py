"""One engine, one set of prompts: token ids and logprobs as JSON.

    python generate.py FOLDER OUT ENGINE_ARGUMENTS [before]

`before` is a statement that runs in this process alone, before vLLM is imported.
"""

import json
import random
import sys
from pathlib import Path

from models import make_model
from prompts import BATCH, SERVED, SINGLES, TOKENS


def generate(folder: Path, arguments: dict) -> list[dict]:
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        model=make_model(folder, arguments.pop("kind")),
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
        temperature=0, max_tokens=TOKENS, logprobs=3, ignore_eos=True, detokenize=False
    )

    def prompt(length: int) -> TokensPrompt:
        return TokensPrompt(prompt_token_ids=[draw.randrange(3, 512) for _ in range(length)])

    def pack(request) -> dict:
        said = request.outputs[0]
        return {
            "prompt": list(request.prompt_token_ids),
            "ids": list(said.token_ids),
            "logprobs": [
                {str(token): found.logprob for token, found in step.items()}
                for step in said.logprobs
            ],
        }

    alone = [*(prompt(n) for n in SINGLES), TokensPrompt(prompt_token_ids=SERVED)]
    singles = [llm.generate([each], sampling, use_tqdm=False)[0] for each in alone]
    batch = llm.generate([prompt(n) for n in BATCH], sampling, use_tqdm=False)
    return [pack(each) for each in (*singles, *batch)]


if __name__ == "__main__":
    folder, out, given, *before = sys.argv[1:]
    for statement in before:
        exec(statement)
    Path(out).write_text(json.dumps(generate(Path(folder), json.loads(given))))
