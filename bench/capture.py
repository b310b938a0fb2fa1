"""Regenerates the graphs in spfast/data: `python -m bench.capture [NAME ...]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch.fx as fx

from spfast import NodeTable

from .workloads import hf, vllm_ir

DATA = Path(__file__).parent.parent / "python" / "spfast" / "data"

# The Hugging Face graph takes about a minute: its model is compiled up to the pass.
CAPTURES: dict[str, Callable[[], fx.Graph]] = {
    "hf_llama70b_80layer_static": lambda: hf.capture(hf.llama_70b_config(80)),
    "vllm_ir_fp8_custom_80layer": lambda: vllm_ir.build(80, fp8="custom_op"),
    "vllm_ir_bf16_2layer": lambda: vllm_ir.build(2),
    "vllm_ir_bf16_2layer_dynamic": lambda: vllm_ir.build(2, None),
    "vllm_ir_fp8_custom_2layer": lambda: vllm_ir.build(2, fp8="custom_op"),
}


def main(names: list[str]) -> None:
    for name in names or CAPTURES:
        start = time.perf_counter()
        graph = CAPTURES[name]()
        path = DATA / f"{name}.spfx"
        NodeTable.from_graph(graph).save(str(path))
        seconds = time.perf_counter() - start
        print(
            f"{path.name}: {len(graph.nodes)} nodes, {path.stat().st_size} bytes, {seconds:.1f} s"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
