"""A graph of many equal layers: one is traced, then its nodes are repeated with fresh values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch._inductor import pattern_matcher as torch_matcher
from torch.fx._lazy_graph_module import _LazyGraphModule

from ..workloads.builder import GraphBuilder

HINT = 4096
LayerFunction = Callable[..., Any]


def stack(
    layer: LayerFunction,
    layers: int,
    tokens: int | None,
    hidden: int,
    weights: Sequence[tuple[tuple[int, ...], torch.dtype]],
) -> fx.GraphModule:
    """Builds a graph of equal layers, each with its own weights.

    Args:
        layer: (rows, stream, *weights) -> stream of the same shape.
        layers: how many.
        tokens: rows of the stream; None: one symbolic size, which is then the first input.
        hidden: features of the stream.
        weights: shape and dtype of each of a layer's weights.

    Returns:
        A graph of bf16[tokens, hidden] -> bf16[tokens, hidden], each node with meta["val"].
    """
    b = GraphBuilder()
    rows: Any = tokens
    rows_node = None
    if tokens is None:
        rows_node, rows = b.symbol_input(HINT)
    stream = b.placeholder((rows, hidden), torch.bfloat16)
    own = [[b.placeholder(shape, dtype) for shape, dtype in weights] for _ in range(layers)]
    traced: fx.GraphModule | None = None
    for index in range(layers):
        inputs = [rows_node if rows_node is not None else rows, stream, *own[index]]
        values = [i.meta["val"] if isinstance(i, fx.Node) else i for i in inputs]
        if traced is None:
            traced = _trace(layer, b, values)
        stream = _repeat(b, traced, inputs, index)
    return _LazyGraphModule(torch.nn.Module(), b.finish([stream]))


def _trace(layer: LayerFunction, b: GraphBuilder, values: list[Any]) -> fx.GraphModule:
    with b.mode:
        traced = torch_matcher.fwd_only(functools.partial(_positional, layer), values)
    return traced


def _positional(layer: LayerFunction, *values: Any) -> Any:
    return layer(*values)


def _repeat(b: GraphBuilder, traced: fx.GraphModule, inputs: list[Any], index: int) -> fx.Node:
    made: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            made[node] = next(given)
        elif node.op == "output":
            result = made[node.args[0]]
            assert isinstance(result, fx.Node)
            return result
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), made.__getitem__)
            if "layer_name" in kwargs:
                kwargs = {**kwargs, "layer_name": f"layers.{index}.attn"}
            copy = b.graph.call_function(node.target, args, kwargs)
            copy.meta.update(node.meta)
            copy.meta["val"] = _fresh(b, node, made)
            copy.meta["stack_trace"] = f'File "model.py", line {index}, in {node.name}'
            made[node] = copy
    raise AssertionError("a graph without output")


def _fresh(b: GraphBuilder, node: fx.Node, made: dict[fx.Node, Any]) -> Any:
    value = node.meta.get("val")
    source = node.args[0] if node.args else None
    if node.target is torch.ops.aten.split.Tensor or not isinstance(source, fx.Node):
        return _renew(b, value)
    if getattr(node.target, "__name__", "") == "getitem":
        # One of several results shares the fake value of the call that gave it.
        return made[source].meta["val"][node.args[1]]
    return _renew(b, value)


def _renew(b: GraphBuilder, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return b.fake(value.shape, value.dtype, value.stride())
    if isinstance(value, (list, tuple)):
        return type(value)(_renew(b, v) for v in value)
    return value
