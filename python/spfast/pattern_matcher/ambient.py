"""The settings of the process and the thread that tracing reads besides its arguments."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch._functorch.config as functorch_config
import torch._inductor.config as inductor_config
import torch.compiler.config as compiler_config
import torch.fx.experimental._config as symbols_config
import torch.fx.traceback as fx_traceback
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import _get_current_function_mode_stack
from torch.utils import deterministic
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

__all__ = ["Ambient", "ambient", "tracks_provenance"]

Ambient = tuple[Hashable, str]


def _getters() -> list[Callable[[], Hashable]]:
    found: list[Callable[[], Hashable]] = [
        torch.are_deterministic_algorithms_enabled,
        torch.is_deterministic_algorithms_warn_only_enabled,
        torch.get_default_dtype,
        torch.is_inference_mode_enabled,
        torch.is_grad_enabled,
        torch.is_autocast_cache_enabled,
        lambda: getattr(deterministic, "fill_uninitialized_memory", None),
    ]
    for config in (inductor_config, functorch_config, symbols_config, compiler_config):
        found.append(config.get_hash)
    # The kernels that attention, convolutions and norms are traced to depend on these settings. An
    # older torch lacks some of them, and then its tracing does not read them.
    for name in (
        *("_get_flash_sdp_enabled", "_get_mem_efficient_sdp_enabled", "_get_math_sdp_enabled"),
        *("_get_cudnn_sdp_enabled", "_get_overrideable_sdp_enabled", "_get_cudnn_enabled"),
        *("_get_math_sdp_allow_fp16_bf16_reduction", "_get_mkldnn_enabled", "_get_nnpack_enabled"),
        *("_get_float32_matmul_precision", "_get_cublas_allow_tf32", "_get_cudnn_allow_tf32"),
        *("_is_fwd_grad_enabled", "_is_torch_function_enabled"),
    ):
        if hasattr(torch._C, name):
            found.append(getattr(torch._C, name))
    if hasattr(torch._C, "_get_sdp_priority_order"):
        found.append(lambda: tuple(torch._C._get_sdp_priority_order()))
    return found


_GETTERS = _getters()
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps", "mtia", "maia", "hpu", "xla", "ipu")


def ambient() -> Ambient:
    """The settings as a key, and why no trace may be kept under them (empty if one may)."""
    key: list[Hashable] = [getter() for getter in _GETTERS]
    if torch._C._is_any_autocast_enabled():
        key += [
            (device, torch.get_autocast_dtype(device))
            for device in (*_AUTOCAST_DEVICES, torch._C._get_privateuse1_backend_name())
            if torch.is_autocast_enabled(device)
        ]
    reason = _reason()
    if not reason and torch._C._len_torch_function_stack():
        key += [("default device", str(mode.device)) for mode in _function_modes()]
    return tuple(key), reason


def _function_modes() -> list[Any]:
    return _get_current_function_mode_stack()  # type: ignore[no-untyped-call, no-any-return]


def _reason() -> str:
    if tracks_provenance():
        return "torch tracks where each node came from"
    if torch._C._len_torch_function_stack():
        for mode in _function_modes():
            if type(mode) is not DeviceContext:
                return f"a {type(mode).__name__} is active"
    if torch._C._len_torch_dispatch_stack():
        for mode in _get_current_dispatch_mode_stack():
            # Tracing runs under the graph's own fake mode, whichever fake mode is active outside.
            if not isinstance(mode, FakeTensorMode):
                return f"a {type(mode).__name__} is active"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a function transform is active"
    if fx_traceback.current_meta:
        return "nodes are made under annotations"
    return ""


def tracks_provenance() -> bool:
    """Whether torch notes in new nodes which nodes they replace: no template can hold that."""
    level: Callable[[], int] | None
    level = getattr(inductor_config, "effective_provenance_tracking_level", None)
    if level is not None:
        return bool(level() == 1)
    return bool(inductor_config.trace.provenance_tracking_level == 1)
