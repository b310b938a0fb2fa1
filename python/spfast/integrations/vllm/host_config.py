"""What the pass needs to know, read from a VllmConfig by its attributes alone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from spfast.errors import ConfigError
from spfast.integrations.vllm.settings import Settings

if TYPE_CHECKING:
    from spfast.config import SequenceParallelConfig

__all__ = ["config_from_vllm", "read", "switched_on", "threshold"]


def config_from_vllm(vllm_config: Any, *, pads: bool | None = None) -> SequenceParallelConfig:
    """Reads what the pass needs from a VllmConfig, or from anything with its attributes.

    Args:
        vllm_config: Has ``parallel_config.tensor_parallel_size`` and ``compilation_config``; may
            have ``model_config``, ``scheduler_config``, ``device_config`` and
            ``additional_config``. What is absent counts as not given.
        pads: Whether every batch is padded to a multiple of tp_size; None: where vLLM's own
            sequence-parallel switch is on, for then vLLM does so.

    Returns:
        The configuration. ``divisibility`` is "assume" where batches are padded, else "prove", for
        vLLM checks no guards when it calls what it compiled.

    Raises:
        ConfigError: The object does not say how many tensor-parallel ranks there are, or its
            settings for spfast have a key or a value that is not known.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> config_from_vllm(Config(
        ...     parallel_config=Config(tensor_parallel_size=8),
        ...     compilation_config=Config(pass_config=Config(sp_min_token_num=1024)),
        ... )).min_token_num
        1024
    """
    from spfast.config import SequenceParallelConfig

    tp_size = read(vllm_config, "parallel_config", "tensor_parallel_size")
    if tp_size is None:
        raise ConfigError(
            f"{type(vllm_config).__name__} has no parallel_config.tensor_parallel_size: "
            f"pass a VllmConfig, or an object with its attributes"
        )
    settings = Settings.of(vllm_config)
    model = read(vllm_config, "model_config")
    compilation = read(vllm_config, "compilation_config")
    own = read(compilation, "pass_config", "sp_min_token_num")
    if pads is None:
        pads = switched_on(vllm_config)
    return SequenceParallelConfig(
        tp_size=tp_size,
        min_token_num=settings.min_token_num if own is None else own,
        max_num_batched_tokens=read(vllm_config, "scheduler_config", "max_num_batched_tokens"),
        hidden_size=model.get_hidden_size() if hasattr(model, "get_hidden_size") else None,
        dtype=read(model, "dtype"),
        device=_device(read(vllm_config, "device_config", "device")),
        splitting_ops=tuple(read(compilation, "splitting_ops") or ()),
        use_inductor_graph_partition=bool(read(compilation, "use_inductor_graph_partition")),
        divisibility="assume" if pads else "prove",
        **settings.pass_fields(),
    )


def threshold(vllm_config: Any) -> tuple[int | None, str]:
    """The smallest number of tokens for which graphs are rewritten (None: unknown), and why."""
    from spfast.applicability import minimum_tokens

    return minimum_tokens(config_from_vllm(vllm_config))


def switched_on(vllm_config: Any) -> bool:
    """Whether vLLM's own switch for sequence parallelism is on (up to 0.31, by either name)."""
    pass_config = read(vllm_config, "compilation_config", "pass_config")
    return any(read(pass_config, name) for name in ("enable_sp", "enable_sequence_parallelism"))


def read(root: Any, *path: str) -> Any:
    """Follows attributes; None where one is absent."""
    for name in path:
        root = getattr(root, name, None)
    return root


def _device(device: Any) -> Any:
    """The device for the threshold: vLLM's platform knows it without starting CUDA."""
    from spfast.thresholds import DeviceKind

    platform = getattr(sys.modules.get("vllm.platforms"), "current_platform", None)
    if platform is not None and platform.is_cuda():
        capability = platform.get_device_capability()
        return None if capability is None else f"sm{capability.major}{capability.minor}"
    try:
        DeviceKind.parse(device)
    except ConfigError:
        return None
    return device
