"""The meta that tracing leaves on nodes beside ``val``, as torch.compile hands a graph to a pass.

A pass carries it over, keeps ``tensor_meta`` true and must not trip over the rest, which takes time
that a graph with ``val`` alone would hide. ``tests/test_bench.py`` compares the keys with those of
a graph that torch traces. Every node has objects of its own, as a traced one has; texts and what
is equal for all are shared, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.fx.traceback import NodeSource, NodeSourceAction

_STACK = (
    '  File "/models/llama.py", line 312, in forward\n'
    "    hidden_states, residual = self.layers[i](positions, hidden_states, residual)\n"
    '  File "/models/llama.py", line {line}, in forward\n'
    "    hidden_states = self.{module}(hidden_states)\n"
)


class _Layer(torch.nn.Module):
    """Stands for the module that a node comes from."""


class TracingMeta:
    """Sets the meta of the nodes of one new graph."""

    def __init__(self) -> None:
        self._described: dict[Any, TensorMetadata] = {}
        self._sources = fx.Graph()
        self._count = 0

    def placeholder(self, node: fx.Node, val: Any) -> None:
        """A graph input: a tensor or a symbolic size."""
        node.meta["val"] = val
        self._describe(node, val)
        node.meta["desc"] = ("input", len(node.graph.nodes) - 1)
        node.meta["mutation_region_id"] = 0

    def call(self, node: fx.Node, val: Any) -> None:
        """A call whose result is ``val``."""
        self._count += 1
        target: Any = node.target
        module = f"layers.{self._count // 25}.block.{self._count % 25}"
        node.meta["stack_trace"] = _STACK.format(line=100 + self._count % 25, module=module)
        node.meta["nn_module_stack"] = {str(self._count): (f"L['self'].{module}", _Layer)}
        node.meta["source_fn_stack"] = [(node.name, target)]
        node.meta["original_aten"] = target
        node.meta["from_node"] = [self._source(node, target)]
        node.meta["seq_nr"] = -1
        node.meta["val"] = val
        self._describe(node, val)
        node.meta["mutation_region_id"] = 0

    def output(self, node: fx.Node, outputs: list[fx.Node]) -> None:
        """The output node."""
        vals = [each.meta["val"] for each in outputs]
        node.meta["desc"] = [("output", i) for i in range(len(outputs))]
        node.meta["output_stack_traces"] = [each.meta.get("stack_trace") for each in outputs]
        node.meta["mutation_region_id"] = 0
        node.meta["user_visible_output_idxs"] = list(range(len(outputs)))
        node.meta["val"] = tuple(vals)
        node.meta["original_output_strides"] = [val.stride() for val in vals]

    def _source(self, node: fx.Node, target: Callable[..., Any]) -> NodeSource:
        source = NodeSource(None, "Interpreter_PropagateUnbackedSymInts", NodeSourceAction.CREATE)
        source.node_info = NodeSource.NodeInfo(node.name, str(target), id(self._sources))
        return source

    def _describe(self, node: fx.Node, val: Any) -> None:
        """tensor_meta, of a single tensor alone; asked of torch once for each kind of tensor."""
        if not isinstance(val, torch.Tensor):
            return
        sizes = tuple(map(str, val.shape)), tuple(map(str, val.stride())), val.dtype
        known = self._described.get(sizes)
        if known is None:
            known = self._described[sizes] = _extract_tensor_metadata(val)
        node.meta["tensor_meta"] = known._replace(shape=val.shape, stride=val.stride(), qparams={})
