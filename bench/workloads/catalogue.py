"""The workloads by name: how to make a graph, and what a rewriter is told about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.fx as fx
from torch.fx._lazy_graph_module import _LazyGraphModule

from ..peers.peer import Setting
from . import functional, vllm_ir


@dataclass(frozen=True)
class Workload:
    """A family of graphs that differ in their number of layers.

    Attributes:
        name: as in the tables.
        build: layers -> a new graph.
        setting: what a rewriter needs to know.
    """

    name: str
    build: Callable[[int], fx.Graph]
    setting: Setting

    def fresh(self, layers: int) -> fx.Graph:
        """A new graph, owned by a lazily compiled module as Inductor's are."""
        graph = self.build(layers)
        _LazyGraphModule({}, graph)
        return graph

    @staticmethod
    def sites(layers: int) -> int:
        """Two a layer, and the embedding's."""
        return 2 * layers + 1


def _vllm(name: str, tokens: int | None, fp8: Any = None) -> Workload:
    setting = Setting("vllm_ir", quantised=fp8, dynamic=tokens is None)
    return Workload(name, lambda layers: vllm_ir.build(layers, tokens, fp8=fp8), setting)


def _hf(name: str, tokens: int | None, batch: int = 1) -> Workload:
    setting = Setting("functional", group="0", three_d=True, dynamic=tokens is None, epsilon=1e-6)
    return Workload(name, lambda layers: functional.build_hf(layers, tokens, batch=batch), setting)


def _plain(name: str, tokens: int | None) -> Workload:
    setting = Setting("functional", group="0", dynamic=tokens is None)
    return Workload(name, lambda layers: functional.build_plain(layers, tokens), setting)


WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        _vllm("vLLM IR bf16, static", 4096),
        _vllm("vLLM IR bf16, dynamic", None),
        _vllm("vLLM IR FP8 op, static", 4096, "custom_op"),
        _vllm("vLLM IR FP8 op, dynamic", None, "custom_op"),
        _vllm("vLLM IR FP8 native, static", 4096, "native"),
        _vllm("vLLM IR FP8 native, dynamic", None, "native"),
        _plain("functional 2D, static", 4096),
        _plain("functional 2D, dynamic", None),
        _hf("functional 3D, static", 4096),
        _hf("functional 3D, dynamic", None),
        _hf("functional 3D batch 4, static", 4096, 4),
        _hf("functional 3D batch 4, dynamic", None, 4),
    )
}
