"""One fresh process of ``bench.cold``: does one thing for the first time and prints seconds.

    python -m bench.cold_process apply|uuid|rule WORKLOAD LAYERS

Which spfast it measures, its PYTHONPATH says. torch is loaded before, and what a compile has
loaded by the time its passes run.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import torch
import torch._inductor.custom_graph_pass
import torch.fx.experimental.symbolic_shapes

WARM = 5


def main(what: str, workload: str, layers: int) -> dict[str, Any]:
    start = time.process_time()
    import spfast

    record: dict[str, Any] = {"import_s": time.process_time() - start}
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, divisibility="assume")
    if what == "uuid":
        made = spfast.SequenceParallelismPass(config)
        start = time.process_time()
        made.uuid()
        record["first_s"] = time.process_time() - start
        return record
    from bench.workloads.catalogue import WORKLOADS

    found = WORKLOADS[workload]
    graphs = [found.fresh(layers) for _ in range(1 + WARM)]
    gc.collect()
    gc.disable()
    seconds = []
    for turn, graph in enumerate(graphs):
        start = time.process_time()
        if what == "rule" and turn == 0:
            _register()
        sites = spfast.apply(graph, config).matched_count
        seconds.append(time.process_time() - start)
        assert sites == found.sites(layers), sites
    record["first_s"], record["warm_s"] = seconds[0], sorted(seconds[1:])[WARM // 2]
    return record


def _register() -> None:
    """A rule of one's own, for an operator that the graphs do not have."""
    from spfast import patterns
    from spfast.patterns import Rows, Value, ops

    @patterns.register("mine", dialect="vllm_ir", priority=2)
    def mine(reduced: Value, residual: Rows, weight: Value, epsilon: Value) -> tuple[Value, Value]:
        both = ops.mylib.add_norm(reduced, residual, weight, epsilon)
        return both[0], both[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
