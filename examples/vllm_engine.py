"""vLLM with the plugin switched on: one argument, in place of or beside its own settings.

    python examples/vllm_engine.py MODEL [RANKS]

Needs vLLM 0.20 to 0.33 and as many GPUs as ranks. `spfast doctor vllm` says whether the plugin
would work, without an engine.
"""

import sys

from vllm import LLM, SamplingParams

SETTINGS = {"enable": True, "min_token_num": 256}


def main(model: str, ranks: int = 2) -> None:
    llm = LLM(
        model=model,
        tensor_parallel_size=ranks,
        additional_config={"spfast": SETTINGS},
    )
    prompts = ["Sequence parallelism keeps", "An all_reduce is a reduce_scatter and"]
    for output in llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=32)):
        print(output.prompt, "->", output.outputs[0].text)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
