"""The model of a case as a step that can be made again and again, and its exact result."""

from __future__ import annotations

import itertools
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from spfast.testing.models.dtensor import build_decoder

from .cases import Case
from .float8 import Decoder, exact

_NUMBERS = itertools.count()


class Step:
    """One step of a compiled model.

    Args:
        case: What is done.
        model: The model; compiled when it is first called.
        x: This rank's input.
        backend: Of torch.compile.
        gathered: The ranks whose rows the output has, where it has this rank's alone.
    """

    def __init__(
        self, case: Case, model: torch.nn.Module, x: torch.Tensor, backend: Any, gathered: Any
    ) -> None:
        self.training = case.step == "training"
        self.model, self.x, self.gathered = model, x, gathered
        self.compiled = torch.compile(_own(type(model).forward), fullgraph=True, backend=backend)
        self.upstream = torch.ones_like(x)
        self.output: torch.Tensor | None = None
        x.requires_grad_(self.training)  # as it is where an embedding learns

    def __call__(self) -> None:
        """Makes one."""
        if self.training:
            self.forget()
            self.compiled(self.model, self.x).backward(self.upstream)
        else:
            with torch.no_grad():
                self.output = self.compiled(self.model, self.x)

    def forget(self) -> None:
        """Frees what the last step left: gradients, or the output."""
        self.x.grad = self.output = None
        self.model.zero_grad(set_to_none=True)

    def result(self) -> torch.Tensor:
        """What the last step yields: a weight's gradient that has all of it behind it, or the
        output of all tokens. Every rank has to ask."""
        if self.training:
            gradient = self.model.layers[0].norm1.weight.grad
            # A replicated weight's gradient. By hand it is a partial sum.
            found = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        else:
            found = self.output
            if self.gathered is not None:
                from torch.distributed.tensor import DTensor, Shard

                found = DTensor.from_local(found, self.gathered, [Shard(1)]).full_tensor()
        result = found.detach().float().clone()
        self.forget()
        return result


def _own(forward: types.FunctionType) -> types.FunctionType:
    """The same function with code of its own: Dynamo keeps what it compiled by code, and would take
    the first contender's graph for all."""
    code = forward.__code__.replace(co_name=f"forward_{next(_NUMBERS)}")
    return types.FunctionType(code, forward.__globals__, code.co_name)


def make_step(case: Case, mesh: Any, by_hand: bool, backend: Any) -> Step:
    """Builds the model of a case and its input; nothing is compiled yet."""
    if case.step == "float8":
        rank, ranks = mesh.get_local_rank(), mesh.size()
        model = Decoder(case.sizes, rank, ranks, case.device, mesh.get_group())
        return Step(case, model, _input(case), backend, None)
    dtype = getattr(torch, case.dtype)
    model = build_decoder(case.sizes, mesh, by_hand=by_hand, dtype=dtype, device=case.device)
    x = _input(case)
    if by_hand:
        x = x.chunk(mesh.size(), 1)[mesh.get_local_rank()].contiguous()
    return Step(case, model, x, backend, mesh if by_hand else None)


def _input(case: Case) -> torch.Tensor:
    shape = (case.tokens, case.sizes.hidden)
    generator = torch.Generator(case.device).manual_seed(1)
    return torch.randn(
        shape if case.step == "float8" else (1, *shape),
        device=case.device,
        dtype=getattr(torch, case.dtype),
        generator=generator,
    )


def exact_result(case: Case, mesh: Any) -> torch.Tensor | None:
    """The output in float64 of the same weights on one rank; of a training step there is none."""
    if case.step == "training":
        return None
    with torch.no_grad(), _HeadByHead():
        if case.step == "float8":
            size = mesh.size()
            ranks = [Decoder(case.sizes, rank, size, case.device) for rank in range(size)]
            found = exact(ranks, _input(case))
        else:
            dtype = getattr(torch, case.dtype)
            model = build_decoder(case.sizes, None, dtype=dtype, device=case.device)
            found = model.double()(_input(case).double())
    return found.float()


class _HeadByHead(TorchFunctionMode):
    """Attention of one head at a time: the scores of all in float64 would not fit."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        heads = zip(*(each.split(1, 1) for each in args), strict=True)
        return torch.cat([func(*head, **(kwargs or {})) for head in heads], 1)
