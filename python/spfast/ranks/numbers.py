"""The numbers among a graph's inputs that are no input's size: each rank may have its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["own_numbers"]


def own_numbers(graph: fx.Graph) -> list[int]:
    """Returns the places of symbolic numbers among the inputs that no tensor among them tells.

    A number that is a tensor's size is the same on all ranks. An argument need not be: it may be
    the first row of this rank's part of a vocabulary.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> traced = make_fx(lambda x, n: x * n, tracing_mode="symbolic")(torch.ones(2, 3), 4)
        >>> own_numbers(traced.graph)
        [1]
    """
    numbers: dict[int, set[Any]] = {}
    tensors: list[torch.Tensor] = []
    for place, node in enumerate(graph.nodes):
        if node.op == "call_function":
            break
        val = node.meta.get("val")
        if isinstance(val, torch.SymInt):
            numbers[place] = val.node.expr.free_symbols
        elif isinstance(val, torch.Tensor):
            tensors.append(val)
    if not numbers:
        return []
    unknown = set().union(*numbers.values())
    for tensor in tensors:
        if not unknown:
            break
        for size in (*tensor.shape, *tensor.stride(), tensor.storage_offset()):
            if isinstance(size, torch.SymInt):
                unknown -= size.node.expr.free_symbols
    return [place for place, symbols in numbers.items() if symbols & unknown]
