"""A tensor-parallel MLP stack on plain tensors: each rank has its own weights, as Megatron has."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

HIDDEN, INNER = 32, 64


class _Copy(torch.autograd.Function):
    """What enters a column-parallel layer: its gradient is the sum of the ranks'."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return funcol.all_reduce(gradient, "sum", ctx.group), None


class _Reduce(torch.autograd.Function):
    """What leaves a row-parallel layer: the sum of the ranks' parts."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        return funcol.all_reduce(x, "sum", group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Block(nn.Module):
    def __init__(self, group: str, ranks: int) -> None:
        super().__init__()
        self.group = group
        self.norm = nn.Parameter(torch.ones(HIDDEN))
        self.bias = nn.Parameter(torch.zeros(HIDDEN))
        self.up = nn.Parameter(torch.empty(INNER // ranks, HIDDEN))
        self.gate = nn.Parameter(torch.empty(INNER // ranks, HIDDEN))
        self.down = nn.Parameter(torch.empty(HIDDEN, INNER // ranks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        read = self.norm * normed.to(x.dtype)
        # A layer by itself each, as linear layers are: their gradients are reduced one by one.
        up = F.linear(_Copy.apply(read, self.group), self.up)
        gate = F.linear(_Copy.apply(read, self.group), self.gate)
        fed = F.linear(F.silu(gate) * up, self.down)
        return x + _Reduce.apply(fed, self.group) + self.bias


class Stack(nn.Module):
    """Blocks, and a column-parallel layer.

    [batch, length, HIDDEN] -> [batch, length, HIDDEN / ranks].

    Args:
        mesh: A one-dimensional DeviceMesh, the tensor-parallel ranks.
        blocks: How many.
        checkpointed: Whether each is computed again in the backward.
    """

    def __init__(self, mesh: Any, blocks: int, checkpointed: bool = False) -> None:
        super().__init__()
        group = mesh.get_group()
        self.group = group.group_name
        self.checkpointed = checkpointed
        self.blocks = nn.ModuleList(_Block(self.group, group.size()) for _ in range(blocks))
        self.head = nn.Parameter(torch.empty(HIDDEN // group.size(), HIDDEN))
        generator = torch.Generator().manual_seed(group.rank())
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.2, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return F.linear(_Copy.apply(x, self.group), self.head)
