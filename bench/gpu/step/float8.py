"""A Llama-shaped decoder with static float8 products, sharded by hand with functional collectives.

There is no DTensor plan for it: each rank makes its own weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn

from spfast.testing.models.dtensor import Sizes

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max


class Product(nn.Module):
    """y = x w^T of float8 values; wide, the same in float64."""

    def __init__(self, rows: int, columns: int, generator: torch.Generator, device: str) -> None:
        super().__init__()
        weight = torch.randn(rows, columns, generator=generator, device=device)
        scale = columns**-0.5 / 32  # a normal weight then spans a good part of the dtype
        weight = (weight * columns**-0.5 / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("weight_scale", torch.tensor(scale, device=device))
        self.register_buffer("scale", torch.tensor(0.02, device=device))

    def quantised(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.scale.to(x.dtype)).clamp(-LARGEST, LARGEST).to(FLOAT8)

    def forward(self, x: torch.Tensor, wide: bool = False) -> torch.Tensor:
        if wide:
            whole = x.double() @ self.weight.double().t()
            return whole * (self.scale.double() * self.weight_scale.double())
        return torch._scaled_mm(
            x,
            self.weight.t(),
            scale_a=self.scale,
            scale_b=self.weight_scale,
            out_dtype=torch.bfloat16,
        )


class Layer(nn.Module):
    """One rank's part of a layer."""

    def __init__(self, sizes: Sizes, ranks: int, generator: torch.Generator, device: str) -> None:
        super().__init__()
        hidden, self.head = sizes.hidden, sizes.hidden // sizes.heads
        keys, inner = sizes.kv_heads * self.head // ranks, sizes.inner // ranks

        def product(rows: int, columns: int) -> Product:
            return Product(rows, columns, generator, device)

        self.norm1 = nn.Parameter(torch.ones(hidden, device=device, dtype=torch.bfloat16))
        self.norm2 = nn.Parameter(torch.ones(hidden, device=device, dtype=torch.bfloat16))
        self.q, self.o = product(hidden // ranks, hidden), product(hidden, hidden // ranks)
        self.k, self.v = product(keys, hidden), product(keys, hidden)
        self.gate, self.up = product(inner, hidden), product(inner, hidden)
        self.down = product(hidden, inner)

    def attention(self, x: torch.Tensor, wide: bool = False) -> torch.Tensor:
        """This rank's part of the sum, of quantised normed tokens [T, H]."""
        q, k, v = (
            p(x, wide).view(1, x.shape[0], -1, self.head).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        repeats = q.shape[1] // k.shape[1]
        k, v = (each.unsqueeze(2).expand(-1, -1, repeats, -1, -1).flatten(1, 2) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(self.o.quantised(mixed.transpose(1, 2).reshape(x.shape[0], -1)), wide)

    def mlp(self, x: torch.Tensor, wide: bool = False) -> torch.Tensor:
        """This rank's part of the sum, of quantised normed tokens [T, H]."""
        return self.down(self.down.quantised(F.silu(self.gate(x, wide)) * self.up(x, wide)), wide)


class Decoder(nn.Module):
    """[T, H] -> [T, H] on every rank."""

    def __init__(
        self, sizes: Sizes, rank: int, ranks: int, device: str = "cuda", group: Any = None
    ) -> None:
        super().__init__()
        generator = torch.Generator(device).manual_seed(100 + rank)
        self.layers = nn.ModuleList(
            Layer(sizes, ranks, generator, device) for _ in range(sizes.layers)
        )
        self.norm = nn.Parameter(torch.ones(sizes.hidden, device=device, dtype=torch.bfloat16))
        self.group = group

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            part = layer.attention(layer.q.quantised(norm(h, layer.norm1)))
            h = h + funcol.all_reduce(part, "sum", self.group)
            part = layer.mlp(layer.gate.quantised(norm(h, layer.norm2)))
            h = h + funcol.all_reduce(part, "sum", self.group)
        return norm(h, self.norm)


def exact(ranks: list[Decoder], h: torch.Tensor) -> torch.Tensor:
    """What all ranks compute, in float64 but for the float8 values between: [T, H]."""
    h = h.double()
    for layers in zip(*(each.layers for each in ranks), strict=True):
        first = layers[0]
        x = first.q.quantised(norm(h, first.norm1))
        h = h + sum(layer.attention(x, wide=True) for layer in layers)
        x = first.gate.quantised(norm(h, first.norm2))
        h = h + sum(layer.mlp(x, wide=True) for layer in layers)
    return norm(h, ranks[0].norm)


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
    return wide.to(x.dtype) * weight
