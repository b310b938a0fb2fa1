"""What the plugin costs a process of vLLM while it is off, and what vLLM's own imports take.

    python startup.py

It prints both in milliseconds of processor time. vLLM has imported what a worker runs, so that the
plugin makes all of its changes at once.
"""

import importlib
import json
from time import process_time


def main() -> None:
    start = process_time()
    from vllm.v1.worker import gpu_model_runner, gpu_worker  # noqa: F401

    theirs = process_time() - start
    start = process_time()
    importlib.import_module("spfast.integrations.vllm.plugin").load()
    ours = process_time() - start
    from spfast.integrations.vllm.changes import refusals

    assert not refusals(), refusals()
    print(json.dumps({"spfast": ours * 1e3, "vllm": theirs * 1e3}))


if __name__ == "__main__":
    main()
