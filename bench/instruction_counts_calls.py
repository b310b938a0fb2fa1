"""What bench.instruction_counts runs under valgrind: each thing N times, then 2 N times.

``encode`` reads one graph; ``cold`` is what the first call of a process does natively before that:
it compiles the stored default rules. Counting is switched on and off from inside, through
callgrind_control, for starting Python and torch would take minutes under it. A dump writes down the
count so far and begins anew.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch

from spfast import _core
from spfast.patterns import default_registry
from spfast.run.rules import compiled, rules_of

from .workloads import vllm_ir


def encode(layers: int) -> Callable[[], object]:
    """Encodes a graph of so many layers."""
    graph = vllm_ir.build(layers)
    rules = rules_of(default_registry())
    return lambda: _core.NativeRun(graph, rules)


def cold(layers: int) -> Callable[[], object]:
    """Compiles the default rules from their file's rows, whatever the graph."""
    registry = default_registry()
    if registry.stored() is None:
        raise RuntimeError("the stored default rules are refused: nothing cold to count")
    return lambda: compiled(registry, quantised=True)


def main(layers: int, calls: int, stages: Sequence[str]) -> None:
    """Does each so often."""
    torch.set_num_threads(1)
    for stage in stages:
        call = {"encode": encode, "cold": cold}[stage](layers)
        call()
        gc.disable()
        _control("--instr=on")
        call()
        _control("--dump")
        for repeats in (calls, 2 * calls):
            for _ in range(repeats):
                call()
            _control("--dump")
        _control("--instr=off")
        gc.enable()


def _control(command: str) -> None:
    subprocess.run(["callgrind_control", command, str(os.getpid())], check=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
