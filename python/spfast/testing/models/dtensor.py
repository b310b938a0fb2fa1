"""A Llama-shaped decoder sharded by DTensor, by a plain plan or with sequence parallelism by hand.

The pass is given the plain plan. The other plan is what an author who knows the model would write:
https://pytorch.org/tutorials/intermediate/TP_tutorial.html calls it sequence parallel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["DTensorDecoder", "Sizes", "build_decoder", "shard_layer"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the decoder; heads, their keys and the inner width are divisible by the ranks.

    Attributes:
        hidden: Features of the residual stream.
        inner: Features between the two halves of an MLP.
        heads: Heads of the queries.
        kv_heads: Heads of keys and values.
        layers: Decoder layers.
        vocabulary: Embeddings, sharded by rows; 0: the decoder takes embedded tokens and yields
            hidden states.
        tied: Whether the embeddings are the last projection's weight too.
        checkpointed: Whether each layer's norm and MLP are computed again in the backward.
    """

    hidden: int = 32
    inner: int = 64
    heads: int = 4
    kv_heads: int = 4
    layers: int = 1
    vocabulary: int = 0
    tied: bool = False
    checkpointed: bool = False


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * wide.to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head = sizes.hidden // sizes.heads
        keys = sizes.kv_heads * self.head
        self.q = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.k = nn.Linear(sizes.hidden, keys, bias=False)
        self.v = nn.Linear(sizes.hidden, keys, bias=False)
        self.o = nn.Linear(sizes.hidden, sizes.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        repeats = q.shape[1] // k.shape[1]
        k, v = (each.unsqueeze(2).expand(-1, -1, repeats, -1, -1).flatten(1, 2) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class _MLP(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate = nn.Linear(sizes.hidden, sizes.inner, bias=False)
        self.up = nn.Linear(sizes.hidden, sizes.inner, bias=False)
        self.down = nn.Linear(sizes.inner, sizes.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class _Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1, self.attention = _Norm(sizes.hidden), _Attention(sizes)
        self.norm2, self.mlp = _Norm(sizes.hidden), _MLP(sizes)
        self.checkpointed = sizes.checkpointed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.utils.checkpoint import checkpoint

        x = x + self.attention(self.norm1(x))
        if self.checkpointed:
            again: torch.Tensor = checkpoint(self._feed, x, use_reentrant=False)
            return again
        return self._feed(x)

    def _feed(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class DTensorDecoder(nn.Module):
    """Tokens -> logits, or embedded tokens -> hidden states, as its sizes say.

    Tokens are int64[batch, length], logits [batch, length, vocabulary]; embedded tokens and hidden
    states [batch, length, hidden].
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        if sizes.vocabulary:
            self.embedding = nn.Embedding(sizes.vocabulary, sizes.hidden)
            self.head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.norm = _Norm(sizes.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeds where there is a vocabulary, runs the layers and the last norm."""
        if self.sizes.vocabulary:
            x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x) if self.sizes.vocabulary else x


def build_decoder(
    sizes: Sizes,
    mesh: Any,
    *,
    by_hand: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> DTensorDecoder:
    """Builds the decoder and shards it over a mesh.

    Args:
        sizes: Its sizes.
        mesh: A one-dimensional DeviceMesh, the tensor-parallel ranks; None leaves it whole.
        by_hand: Whether the plan has sequence parallelism in it. The decoder then takes and yields
            this rank's rows, and has no vocabulary.
        dtype: Of the weights.
        device: Where they are.
        seed: Of the weights, which are the same whatever the plan and the number of ranks.

    Raises:
        ValueError: ``by_hand`` with a vocabulary.
    """
    if by_hand and sizes.vocabulary:
        raise ValueError(
            f"vocabulary={sizes.vocabulary}: the plan by hand takes embedded tokens, pass 0"
        )
    with torch.device(device):
        model = DTensorDecoder(sizes).to(dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
    if mesh is not None:
        _shard(model, mesh, by_hand)
    if sizes.tied:
        model.head.weight = model.embedding.weight
    return model


def _shard(model: DTensorDecoder, mesh: Any, by_hand: bool) -> None:
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    for layer in model.layers:
        shard_layer(layer, mesh, by_hand=by_hand)
    if by_hand:
        parallelize_module(model, mesh, {"norm": SequenceParallel(use_local_output=True)})
    if model.sizes.vocabulary:
        plan: dict[str, Any] = {
            "embedding": RowwiseParallel(input_layouts=Replicate()),
            "head": ColwiseParallel(output_layouts=Replicate()),
        }
        parallelize_module(model, mesh, plan)


def shard_layer(layer: nn.Module, mesh: Any, *, by_hand: bool = False) -> None:
    """Shards one layer, as :func:`build_decoder` does."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    def row() -> Any:
        return RowwiseParallel(output_layouts=Shard(1)) if by_hand else RowwiseParallel()

    plan: dict[str, Any] = {f"attention.{name}": ColwiseParallel() for name in "qkv"}
    plan |= {"mlp.gate": ColwiseParallel(), "mlp.up": ColwiseParallel()}
    plan |= {"attention.o": row(), "mlp.down": row()}
    if by_hand:
        plan |= {"norm1": SequenceParallel(), "norm2": SequenceParallel()}
        for block in ("attention", "mlp"):
            plan[block] = PrepareModuleInput(
                input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
            )
    parallelize_module(layer, mesh, plan)
