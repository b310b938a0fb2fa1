"""What symmetric memory offers in this process: which fused operators, and for which groups."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from spfast.errors import ConfigError
from spfast.ranks.groups import group_name

__all__ = [
    "enable_async_tp",
    "enabled_groups",
    "fused_operator",
    "obstacle",
    "stand_in",
    "torch_group_name",
]

_enabled: set[str] = set()
_stood_in = 0


def enable_async_tp(group: Any = None, *, kernels: str = "spfast") -> None:
    """Allows fused operators for a process group; call it once a process, on each rank.

    Call it after ``init_process_group`` and before anything is compiled, in each process that runs
    the model. A graph from a compile cache needs it, too.

    Args:
        group: A ProcessGroup, its name as torch or vLLM knows it, or a one-dimensional DeviceMesh;
            None takes the default group.
        kernels: Whose kernels the group's fused operators have on CUDA, whoever made them:
            ``"spfast"``, or ``"torch"``. Another call changes it.

    Raises:
        ConfigError: There is no such group, or there are no such kernels.

    Example:
        >>> enable_async_tp("no such group")
        Traceback (most recent call last):
        spfast.errors.ConfigError: process group 'no such group' is not known to torch.distributed
    """
    import torch.distributed as dist

    if kernels not in ("spfast", "torch"):
        raise ConfigError(f"kernels={kernels!r} is none of them: pass 'spfast' or 'torch'")
    if group is None and dist.is_initialized():
        group = dist.group.WORLD
    elif hasattr(group, "get_group"):
        group = group.get_group()
    name = torch_group_name(group)
    if _process_group(name) is None:
        raise ConfigError(f"process group {name!r} is not known to torch.distributed")
    enable = getattr(_module(), "enable_symm_mem_for_group", None)
    if enable is not None:
        with warnings.catch_warnings():
            # Later versions of torch need no call, but torch's own passes beside ours still ask.
            warnings.simplefilter("ignore", FutureWarning)
            enable(name)
    _enabled.add(name)
    if _module() is not None:
        from spfast.async_tp.kernels import use_kernels

        use_kernels(name, kernels == "spfast")


def enabled_groups() -> tuple[str, ...]:
    """The groups that :func:`enable_async_tp` was called for, by torch's names, sorted."""
    return tuple(sorted(_enabled))


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Takes every group and device as capable while stand-ins of the operators are there."""
    global _stood_in
    _stood_in += 1
    try:
        yield
    finally:
        _stood_in -= 1


def torch_group_name(group: Any) -> str:
    """The name under which torch knows a group; vLLM has names of its own."""
    name = group_name(group)
    state = sys.modules.get("vllm.distributed.parallel_state")
    if state is None:
        return name
    reference = getattr(state, "_groups", {}).get(name)
    found = reference() if reference is not None else None
    return group_name(found.device_group) if found is not None else name


def obstacle(group: Any, device: torch.device) -> str:
    """Why fused operators cannot work for a group; empty where they can.

    Args:
        group: As a collective carries it.
        device: Where its tensors are.
    """
    if _stood_in:
        return ""
    name = torch_group_name(group)
    found = _process_group(name)
    if found is None:
        return f"process group '{name}' is not known to torch.distributed in this process"
    import torch.distributed as dist

    backend = str(dist.get_backend(found))
    if "nccl" not in backend:
        return f"the backend of its group is {backend}, and symmetric memory is NVLink's"
    if device.type != "cuda":
        return f"its tensors are on {device.type}, and symmetric memory is on CUDA devices"
    if not _is_enabled(name):
        return (
            f"symmetric memory is not enabled for group '{name}': "
            f"call spfast.enable_async_tp({name!r})"
        )
    return _no_nvlink(int(found.size()))


def _is_enabled(name: str) -> bool:
    if name in _enabled:
        return True
    ask = getattr(_module(), "is_symm_mem_enabled_for_group", None)
    return bool(ask is not None and ask(name))


@functools.cache
def _no_nvlink(size: int) -> str:
    """Why the devices of this host are not joined, as far as torch tells."""
    devices = torch.cuda.device_count()
    if devices < size:
        return f"its group has {size} ranks, and this host {devices} devices"
    try:
        from torch._C import _autograd, _distributed_c10d

        detect = vars(_distributed_c10d)["_detect_dma_connectivity"]
        links = detect(_autograd.DeviceType.CUDA, "nvlink").matrix
    except Exception:  # an unknown torch; what cannot work then fails when it is first run
        return ""
    for one in range(devices):
        for other in range(devices):
            if one != other and not links[one][other]:
                return f"devices {one} and {other} of this host are not joined by NVLink"
    return ""


def _module() -> Any:
    try:
        import torch.distributed._symmetric_memory as module
    except ImportError:
        return None
    return module


def _process_group(name: str) -> Any:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return None
    try:
        c10d: Any = dist.distributed_c10d
        return c10d._resolve_process_group(name)
    except Exception:  # an unknown name raises whatever the C++ registry does
        return None


def fused_operator(name: str) -> Any:
    """The operator of torch.ops.symm_mem; None where this torch has none of that name."""
    if _module() is None:
        return None
    packet = getattr(torch.ops.symm_mem, name, None)
    return getattr(packet, "default", None)
