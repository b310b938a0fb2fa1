"""Graphs of another level than ATen's: how they are recognised, and what to pass instead.

Graphs of Dynamo and of symbolic_trace call modules, Python functions and methods of tensors. Their
collectives name no overload, or are hidden in what is called. Their values have no sizes.
"""

from __future__ import annotations

from types import BuiltinFunctionType
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.graphs import kinds_of

__all__ = ["WITHOUT_VALUES", "has_values", "not_aten", "of_other_level", "without_all_reduces"]

_INSTEAD = "pass the ATen graph that torch.export, AOTAutograd or Inductor's post-grad stage makes"
# The modules where torch has functions of tensors in Python.
_ROOMS = ("torch.nn", "torch._C._nn", "torch.functional", "torch.distributed")


def not_aten(target: Any) -> str:
    """How a function that a node calls shows that the graph is of another level; "" if it does not.

    Example:
        >>> not_aten(torch.ops.aten.add)
        'aten.add names no overload'
        >>> not_aten(torch.rsqrt)
        'torch.rsqrt is no operator'
        >>> not_aten(torch.ops.aten.add.Tensor), not_aten(abs)
        ('', '')
    """
    if isinstance(target, torch._ops.OpOverload):
        return ""
    if isinstance(target, torch._ops.OpOverloadPacket):
        return f"{target} names no overload"
    name = getattr(target, "__name__", "")
    # torch's functions of tensors are in C; torch.sym_max and the like are in Python.
    if isinstance(target, BuiltinFunctionType) and getattr(torch, name, None) is target:
        return f"torch.{name} is no operator"
    room = getattr(target, "__module__", None) or ""
    if any(room == one or room.startswith(f"{one}.") for one in _ROOMS):
        return f"{room}.{name} is no operator"
    return ""


def of_other_level(how: str) -> str:
    """The sentence about a graph of another level.

    Example:
        >>> of_other_level("aten.add names no overload")[:61]
        "the graph is Dynamo's or symbolic_trace's, not ATen's (aten.a"
    """
    return f"the graph is Dynamo's or symbolic_trace's, not ATen's ({how}): {_INSTEAD}"


def without_all_reduces(graph: fx.Graph) -> str:
    """Why no all_reduce was found in a graph that may have some; "" where it has none.

    Args:
        graph: The graph; it is not changed. One look-up an operator where it is ATen's.

    Example:
        >>> without_all_reduces(fx.Graph())
        ''
        >>> without_all_reduces(fx.symbolic_trace(torch.nn.Sequential(torch.nn.ReLU())).graph)[:62]
        "the graph is Dynamo's or symbolic_trace's, not ATen's (%_0 cal"
    """
    modules = getattr(graph.owning_module, "_modules", None) or {}
    for op, target in kinds_of(graph):
        how = ""
        if op == "call_method":
            node = next(iter(graph.find_nodes(op=op)))
            how = f"%{node.name} calls a method of a tensor"
        elif op == "call_module":
            for node in graph.find_nodes(op=op):
                called = modules.get(str(node.target).partition(".")[0])
                for name in str(node.target).split(".")[1:]:
                    called = getattr(called, name, None)
                if type(called).__module__.startswith("torch.nn."):
                    how = f"%{node.name} calls a module"
                    break
        elif op == "call_function":
            how = not_aten(target)
        if how:
            return of_other_level(how)
    return ""


def has_values(graph: fx.Graph) -> bool:
    """Whether any node has a value in its meta."""
    return any("val" in node.meta for node in graph.nodes)


WITHOUT_VALUES = (
    'no node of the graph has meta["val"], so that no size is known: pass a graph as it was '
    "traced, or run torch.fx.passes.fake_tensor_prop.FakeTensorProp on it first"
)
