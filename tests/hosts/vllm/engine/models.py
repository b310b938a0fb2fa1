"""Tiny checkpoints with random weights, the same each time: one for each way to write a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "dtype": "float32",
}
_GEMMA = {
    "query_pre_attn_scalar": 32,
    "tie_word_embeddings": True,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 64,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}

# By name: transformers' prefix, and what differs.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_int8": ("Llama", {}),
    "llama_fp8": ("Llama", {}),
    "qwen3": ("Qwen3", {}),
    "gemma2": ("Gemma2", _GEMMA),
    "gemma3": ("Gemma3", _GEMMA),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "intermediate_size": 64}),
    "qwen3_moe": ("Qwen3Moe", {**_EXPERTS, "norm_topk_prob": True}),
    "deepseek_v2": (
        "DeepseekV2",
        {
            "num_key_value_heads": 4,
            "first_k_dense_replace": 1,
            # vLLM's attention on a CPU knows this width of a latent and its rotated key alone.
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 64,
            "v_head_dim": 32,
            "topk_method": "greedy",
            # One group: vLLM's experts on a CPU ask for groups, and the config has none by default.
            "n_group": 1,
            "topk_group": 1,
        },
    ),
}


# By name: the format and its numbers as compressed-tensors calls them, torch's type, the largest.
QUANTISED: dict[str, tuple[str, str, str, float]] = {
    "llama_int8": ("int-quantized", "int", "int8", 127.0),
    "llama_fp8": ("float-quantized", "float", "float8_e4m3fn", 448.0),
}


def _quantise(path: Path, form: str, numbers: str, dtype: str, largest: float) -> None:
    """Quantises the layers of a checkpoint: weights by channel, and activations by token."""
    import json

    import torch
    from safetensors.torch import load_file, save_file

    kept = {}
    for name, weight in load_file(path / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            kept[name] = weight
            continue
        scale = weight.abs().amax(dim=1, keepdim=True) / largest
        whole = (weight / scale).round() if dtype == "int8" else weight / scale
        kept[name] = whole.to(getattr(torch, dtype))
        kept[f"{name}_scale"] = scale
    save_file(kept, path / "model.safetensors", {"format": "pt"})
    each = {"num_bits": 8, "type": numbers, "symmetric": True}
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**each, "strategy": "channel", "dynamic": False},
                "input_activations": {**each, "strategy": "token", "dynamic": True},
            }
        },
    }
    (path / "config.json").write_text(json.dumps(config))


def make_model(folder: Path, kind: str) -> str:
    """Writes the checkpoint, and a tokenizer of one word a token, where it is not there yet."""
    path = folder / f"tiny-{kind}"
    if path.exists():
        return str(path)
    import tokenizers
    import torch
    import transformers

    prefix, own = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}TextConfig", getattr(transformers, f"{prefix}Config"))(
        **{**COMMON, **own}
    )
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).float()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
        elif "expert" in name or "gate" in name:  # whose own initialisation is not always random
            parameter.data.normal_(std=COMMON["initializer_range"])
    model.save_pretrained(path)
    if kind in QUANTISED:
        _quantise(path, *QUANTISED[kind])
    words = {f"w{number}": number for number in range(COMMON["vocab_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return str(path)
