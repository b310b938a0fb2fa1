"""Hugging Face's model families in small, sharded by transformers' own tensor-parallel plans."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["HF_FAMILIES", "HiddenStates", "build_hf", "config_of"]

# What the families share: every size is divisible by four ranks.
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "vocab_size": 256,
    "max_position_embeddings": 8192,
    # Tied weights are one parameter, and the tensor-parallel plan names both.
    "tie_word_embeddings": False,
}
# Their experts run as grouped matmuls; the default's loop over experts breaks the graph.
_EXPERTS = {"experts_implementation": "grouped_mm"}

HF_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen3": ("Qwen3Config", {}),
    "gemma2": ("Gemma2Config", {"attn_implementation": "eager", "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3TextConfig", {"query_pre_attn_scalar": 16}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, **_EXPERTS}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, **_EXPERTS},
    ),
    "gpt_neox": ("GPTNeoXConfig", {"num_key_value_heads": None, "head_dim": None}),
}


def config_of(family: str, layers: int = 2, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Returns the transformers config of a family in small.

    Args:
        family: a key of HF_FAMILIES.
        layers: decoder layers.
        dtype: of the weights.

    Raises:
        KeyError: the family is not known.
    """
    import transformers

    name, own = HF_FAMILIES[family]
    fields = {**_SIZES, **own, "num_hidden_layers": layers, "dtype": dtype}
    given = {key: value for key, value in fields.items() if value is not None}
    return getattr(transformers, name)(**given)


class HiddenStates(torch.nn.Module):
    """A causal language model as a function of its input alone: ids or embeddings -> logits."""

    def __init__(self, model: torch.nn.Module, embedded: bool) -> None:
        super().__init__()
        self.model = model
        self.embedded = embedded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the model without a cache."""
        given = {"inputs_embeds": x} if self.embedded else {"input_ids": x}
        logits: torch.Tensor = self.model(**given, use_cache=False).logits
        return logits


def build_hf(config: Any, mesh: Any, embedded: bool = False, weights: bool = True) -> HiddenStates:
    """Builds a model and shards it over a device mesh.

    Args:
        config: a transformers config.
        mesh: a one-dimensional DeviceMesh, the tensor-parallel ranks.
        embedded: whether the model takes embeddings [batch, sequence, hidden] and not ids.
        weights: whether the weights are initialised; not so where they are fake.

    Returns:
        The model in evaluation mode. Its full weights come from the default generator: seed it
        alike on every rank.
    """
    import contextlib

    from transformers import AutoModelForCausalLM
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism
    from transformers.initialization import no_init_weights

    with contextlib.nullcontext() if weights else no_init_weights():
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, dtype=config.dtype)
    apply_tensor_parallelism(model, mesh, model._expand_parallel_plan(model.tp_plan))
    return HiddenStates(model.eval(), embedded)
