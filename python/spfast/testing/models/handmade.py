"""Tensor-parallel decoders written by hand, as in-house code writes them: plain modules and funcol.

One class covers the families, by its :class:`Shape`: which norm, where the norms stand, whether
attention and MLP run in parallel, and how the tokens lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn

__all__ = ["SHAPES", "Decoder", "Shape"]

HIDDEN, INTER, HEADS, HEAD_DIM, VOCAB = 64, 128, 8, 8, 256
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Shape:
    """What distinguishes the families.

    Attributes:
        norm: the norm; ``rms_one`` scales by 1 + weight, as Gemma does.
        head_norm: whether queries and keys are normed per head.
        post_norm: whether a second norm stands between each all_reduce and the residual.
        parallel: whether attention and MLP read the same norm and share one all_reduce.
        experts: experts of each MLP, each token's share of all of them by a router; 0: a dense MLP.
        vocabulary: ``"parallel"``: each rank embeds its part of the vocabulary, and an all_reduce
            joins them; ``"replicated"``: every rank embeds all.
        flat: whether the tokens are [tokens, hidden], as serving engines lay them.
        quant: how the normed values are quantised before their matmuls.
    """

    norm: Literal["rms", "rms_one", "layer"] = "rms"
    head_norm: bool = False
    post_norm: bool = False
    parallel: bool = False
    experts: int = 0
    vocabulary: Literal["parallel", "replicated"] = "parallel"
    flat: bool = False
    quant: Literal["none", "fp8_static", "fp8_token", "int8_group", "fp8_dynamic"] = "none"


SHAPES: dict[str, Shape] = {
    "llama": Shape(),
    "qwen3": Shape(head_norm=True),
    "gemma2": Shape(norm="rms_one", post_norm=True),
    "gemma3": Shape(norm="rms_one", post_norm=True, head_norm=True),
    "mixtral": Shape(experts=4),
    "qwen3_moe": Shape(experts=4, head_norm=True),
    "gpt_neox": Shape(norm="layer", parallel=True),
    "no_first_site": Shape(vocabulary="replicated"),
    "flat": Shape(flat=True),
    "fp8_static": Shape(flat=True, quant="fp8_static"),
    "fp8_token": Shape(flat=True, quant="fp8_token"),
    "int8_group": Shape(flat=True, quant="int8_group"),
    "fp8_dynamic": Shape(flat=True, quant="fp8_dynamic"),
}


class Decoder(nn.Module):
    """A small decoder: ids -> hidden states after the last norm.

    Ids are int64[batch, length], or int64[tokens] where the shape is flat.

    Args:
        shape: the family.
        group: the tensor-parallel process group.
        layers: decoder layers.
        dtype: of the weights.
        seed: of the weights; None leaves them as they are allocated. Replicated weights are the
            same on every rank, sharded ones differ.
    """

    def __init__(
        self,
        shape: Shape,
        group: Any,
        layers: int = 2,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        size, rank = group.size(), group.rank()
        rows = VOCAB // size if shape.vocabulary == "parallel" else VOCAB
        self.first_id = rank * rows if shape.vocabulary == "parallel" else 0
        self.embedding = nn.Parameter(torch.empty(rows, HIDDEN, dtype=dtype), requires_grad=False)
        self.layers = nn.ModuleList(_Layer(shape, group, size, dtype) for _ in range(layers))
        self.norm = _Norm(shape.norm, HIDDEN, dtype)
        self.group = group
        if seed is not None:
            self._fill(seed, rank)

    def _fill(self, seed: int, rank: int) -> None:
        replicated = torch.Generator().manual_seed(seed)
        sharded = torch.Generator().manual_seed(seed + 1 + rank)
        for name, weight in self.named_parameters():
            shared = "norm" in name or "router" in name or name.endswith("scale")
            shared = shared or (name == "embedding" and self.shape.vocabulary == "replicated")
            with torch.no_grad():
                if name.endswith("scale"):
                    weight.fill_(0.05)
                    continue
                weight.normal_(0, 0.2, generator=replicated if shared else sharded)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeds, runs the layers and the last norm."""
        if self.shape.vocabulary == "parallel":
            local = ids - self.first_id
            outside = (local < 0) | (local >= self.embedding.shape[0])
            rows = F.embedding(local.masked_fill(outside, 0), self.embedding)
            x = funcol.all_reduce(rows.masked_fill(outside.unsqueeze(-1), 0.0), "sum", self.group)
        else:
            x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x)
        out: torch.Tensor = self.norm(x)
        return out


class _Norm(nn.Module):
    def __init__(self, kind: str, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype), requires_grad=False)
        if kind == "layer":
            self.bias = nn.Parameter(torch.empty(width, dtype=dtype), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, 1e-5)
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        if self.kind == "rms_one":
            return (normed * (1.0 + self.weight.float())).to(x.dtype)
        return self.weight * normed.to(x.dtype)


class _Layer(nn.Module):
    def __init__(self, shape: Shape, group: Any, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.group = shape, group

        def weight(*sizes: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*sizes, dtype=dtype), requires_grad=False)

        self.heads = HEADS // size
        inner, inter = self.heads * HEAD_DIM, INTER // size
        self.norm1 = _Norm(shape.norm, HIDDEN, dtype)
        self.norm2 = _Norm(shape.norm, HIDDEN, dtype)
        if shape.post_norm:
            self.post_norm1 = _Norm(shape.norm, HIDDEN, dtype)
            self.post_norm2 = _Norm(shape.norm, HIDDEN, dtype)
        if shape.head_norm:
            self.query_norm = _Norm("rms", HEAD_DIM, dtype)
            self.key_norm = _Norm("rms", HEAD_DIM, dtype)
        self.query, self.key, self.value = (weight(inner, HIDDEN) for _ in range(3))
        self.out = weight(HIDDEN, inner)
        if shape.experts:
            self.router = weight(shape.experts, HIDDEN)
            self.ups = weight(shape.experts, inter, HIDDEN)
            self.downs = weight(shape.experts, HIDDEN, inter)
        else:
            self.gate, self.up, self.down = (
                weight(inter, HIDDEN), weight(inter, HIDDEN), weight(HIDDEN, inter)
            )  # fmt: skip
        if shape.quant == "fp8_static":
            self.input_scale = nn.Parameter(torch.empty(1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shape.parallel:
            both = self.attention(self.norm1(x)) + self.mlp(self.norm2(x))
            return x + self.reduce(both)
        attended = self.reduce(self.attention(self.norm1(x)))
        x = x + (self.post_norm1(attended) if self.shape.post_norm else attended)
        fed = self.reduce(self.mlp(self.norm2(x)))
        return x + (self.post_norm2(fed) if self.shape.post_norm else fed)

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        reduced: torch.Tensor = funcol.all_reduce(x, "sum", self.group)
        return reduced

    def project(self, x: Any, weight: torch.Tensor) -> torch.Tensor:
        """A matmul of the (quantised) normed value, back in the weights' dtype."""
        if not isinstance(x, tuple):
            return F.linear(x, weight)
        quantised, scale = x
        if scale.dim() and scale.shape[-1] != 1:
            # One scale for each group of features.
            groups = quantised.view(*scale.shape, -1).float()
            return F.linear((groups * scale.unsqueeze(-1)).flatten(-2).to(weight.dtype), weight)
        return F.linear((quantised.float() * scale).to(weight.dtype), weight)

    def quantise(self, x: torch.Tensor) -> Any:
        """The value and its scales, where the family quantises."""
        if self.shape.quant == "none":
            return x
        wide = x.float()
        if self.shape.quant == "int8_group":
            groups = wide.view(*wide.shape[:-1], 4, -1)
            scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127.0
            return (groups / scale).round().to(torch.int8).flatten(-2), scale.squeeze(-1)
        if self.shape.quant == "fp8_static":
            scale = self.input_scale
        elif self.shape.quant == "fp8_token":
            scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 448.0
        else:  # one scale for all tokens, which no rank knows alone
            scale = wide.abs().amax().clamp(min=1e-5) / 448.0
        return (wide / scale).clamp(-448.0, 448.0).to(FP8), scale

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        read = self.quantise(x)
        split = [
            self.by_head(self.project(read, weight))
            for weight in (self.query, self.key, self.value)
        ]
        if self.shape.head_norm:
            split[0], split[1] = self.query_norm(split[0]), self.key_norm(split[1])
        query, key, value = split
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return F.linear(mixed.transpose(-3, -2).flatten(-2), self.out)

    def by_head(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.heads, HEAD_DIM).transpose(-3, -2)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        if self.shape.experts:
            return self.mixture(x)
        read = self.quantise(x)
        active = F.silu(self.project(read, self.gate)) * self.project(read, self.up)
        return F.linear(active, self.down)

    def mixture(self, x: torch.Tensor) -> torch.Tensor:
        """Every expert sees every token; the router's two best weigh what they say."""
        tokens = x.flatten(0, -2)
        best = F.linear(tokens, self.router).float().softmax(-1)
        weights, chosen = best.topk(2, dim=-1)
        share = torch.zeros_like(best).scatter(-1, chosen, weights / weights.sum(-1, keepdim=True))
        active = F.silu(torch.einsum("th,eih->eti", tokens, self.ups))
        each = torch.einsum("eti,ehi->eth", active, self.downs)
        mixed = (each.float() * share.t().unsqueeze(-1)).sum(0).to(x.dtype)
        return mixed.view_as(x)
