"""What bench.instruction_counts runs under valgrind: encodes one graph N times, then 2 N times.

Counting is switched on and off from inside, through callgrind_control, for starting Python and
torch would take minutes under it. A dump writes down the count so far and begins anew.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import torch

from spfast import _core
from spfast.patterns import default_registry
from spfast.rules import rules_of

from .workloads import vllm_ir


def main(layers: int, calls: int) -> None:
    """Encodes a graph of so many layers."""
    torch.set_num_threads(1)
    graph = vllm_ir.build(layers)
    rules = rules_of(default_registry())
    _core.Job(graph, rules)
    gc.disable()
    _control("--instr=on")
    _core.Job(graph, rules)
    _control("--dump")
    for repeats in (calls, 2 * calls):
        for _ in range(repeats):
            _core.Job(graph, rules)
        _control("--dump")
    _control("--instr=off")


def _control(command: str) -> None:
    subprocess.run(["callgrind_control", command, str(os.getpid())], check=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
