"""All small models by name: Hugging Face's as ``hf_<family>``, hand-written as ``tp_<family>``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from spfast.testing.models.handmade import SHAPES, VOCAB, Decoder
from spfast.testing.models.hf import HF_FAMILIES, build_hf, config_of

__all__ = ["FAMILIES", "SmallModel", "build"]

EMBEDDED = "hf_llama_embeds"
FAMILIES: tuple[str, ...] = (
    *(f"hf_{name}" for name in HF_FAMILIES),
    EMBEDDED,
    *(f"tp_{name}" for name in SHAPES),
)


@dataclass(frozen=True)
class SmallModel:
    """A model that is sharded for one rank.

    Attributes:
        module: a function of one tensor.
        example: makes its input: (batch, length) -> ids int64[batch, length], embeddings
            [batch, length, hidden], or int64[batch * length].
    """

    module: torch.nn.Module
    example: Callable[[int, int], torch.Tensor]


def build(
    family: str,
    mesh: Any,
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
    weights: bool = True,
) -> SmallModel:
    """Builds a model for this rank.

    Args:
        family: one of FAMILIES.
        mesh: a one-dimensional DeviceMesh, the tensor-parallel ranks.
        layers: decoder layers.
        dtype: of the weights.
        weights: whether they are random numbers, the same on every run; not so where they are fake.

    Raises:
        KeyError: the family is not known.
    """
    if family.startswith("tp_"):
        shape = SHAPES[family.removeprefix("tp_")]
        seed = 0 if weights else None
        module: torch.nn.Module = Decoder(shape, mesh.get_group(), layers, dtype, seed)
        if shape.flat:
            return SmallModel(module.eval(), lambda batch, length: _ids(batch * length))
        return SmallModel(module.eval(), lambda batch, length: _ids(batch, length))
    embedded = family == EMBEDDED
    name = "llama" if embedded else family.removeprefix("hf_")
    if weights:
        torch.manual_seed(0)
    config = config_of(name, layers, dtype)
    module = build_hf(config, mesh, embedded, weights)
    if embedded:
        return SmallModel(module, lambda b, n: torch.randn(b, n, config.hidden_size, dtype=dtype))
    return SmallModel(module, lambda batch, length: _ids(batch, length))


def _ids(*sizes: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, sizes)
