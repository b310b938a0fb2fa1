"""Engines that are forked, as their workers are, from one process that has imported vLLM.

    python preloaded.py

It reads a job a line, as JSON: the arguments of generate.py, an environment, a log and a limit in
seconds. It answers with the exit code.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

# What the workers import; no thread may be running when they are forked.
PRELOADED = ("vllm.v1.worker.cpu_worker", "vllm.compilation.backends", "torch._inductor.compile_fx")


def run(job: dict[str, Any]) -> None:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update({**job["environment"], "VLLM_WORKER_MULTIPROC_METHOD": "fork"})
    signal.alarm(job["limit"])
    from generate import generate

    said = generate(Path(job["folder"]), job["arguments"])
    Path(job["out"]).write_text(json.dumps(said))


def main() -> None:
    for name in PRELOADED:
        __import__(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                run(json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
