"""Graphs to match on: traced under fake tensors, with the metadata that a capture leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch._dynamo.source import ConstantSource
from torch._dynamo.utils import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

aten = torch.ops.aten
F32, F16, BF16, I64 = torch.float32, torch.float16, torch.bfloat16, torch.int64
Shape = Sequence[int | str]


class Inputs:
    """Makes fake inputs; a letter in a shape is a symbolic size, the same letter the same size.

    Args:
        hints: the example value of each letter.
    """

    def __init__(self, **hints: int) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        self.sizes: dict[str, torch.SymInt] = {}
        for name, hint in hints.items():
            source = ConstantSource(name)
            env = self.mode.shape_env
            symbol = env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
            size = env.create_symintnode(symbol, hint=hint, source=source)
            assert isinstance(size, torch.SymInt)
            self.sizes[name] = size

    def dims(self, shape: Shape) -> list[Any]:
        """The shape with its letters replaced by symbolic sizes."""
        return [self.sizes[d] if isinstance(d, str) else d for d in shape]

    def tensor(
        self,
        *shape: int | str,
        dtype: torch.dtype = F32,
        stride: Shape | None = None,
        requires_grad: bool = False,
    ) -> torch.Tensor:
        """A fake CPU tensor."""
        with self.mode:
            if stride is None:
                return torch.empty(
                    self.dims(shape), dtype=dtype, device="cpu", requires_grad=requires_grad
                )
            return torch.empty_strided(
                self.dims(shape), self.dims(stride), dtype=dtype, device="cpu"
            )


def trace(
    fn: Callable[..., Any],
    *args: Any,
    decompositions: dict[Any, Any] | None = None,
    decorated: bool = True,
) -> fx.GraphModule:
    """The graph of a function of fake inputs, each node with the metadata of a capture."""

    def positional(*given: Any) -> Any:
        return fn(*given)

    with torch.no_grad(), detect_fake_mode(args):
        gm = make_fx(positional, decompositions or {}, tracing_mode="real")(*args)
    if decorated:
        decorate(gm.graph)
    return gm


def decorate(graph: fx.Graph) -> fx.Graph:
    """Gives each node its own stack trace, module stack, original op and so on."""
    for i, node in enumerate(graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        node.meta["stack_trace"] = f'File "model.py", line {i}, in forward'
        node.meta["nn_module_stack"] = {"layer": (f"layers.{i}", "Layer")}
        node.meta["original_aten"] = node.target
        node.meta["seq_nr"] = i
        node.meta["source_fn_stack"] = [(f"fn_{i}", str(node.target))]
    return graph


def vectors(count: int, *shape: int | str, **hints: int) -> list[torch.Tensor]:
    """So many inputs of one shape in one mode."""
    make = Inputs(**hints)
    return [make.tensor(*(shape or (4, 8))) for _ in range(count)]


def faked(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Any:
    """A graph of real values traced under fake ones, and their mode."""
    mode = FakeTensorMode()
    with mode:
        inputs = [torch.empty(shape) for shape in shapes]
    return make_fx(function, tracing_mode="real")(*inputs), mode


def several(x: torch.Tensor, y: torch.Tensor) -> Any:
    """Views, several results, and values that nobody reads twice."""
    z = aten.mm(aten.t(x), y)
    first, second = aten.split_with_sizes(aten.relu(z), [2, 2])
    return aten.cat([first, second, aten.mul(first, 2)]), aten.sum(aten.sin(second), [0])
