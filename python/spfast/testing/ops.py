"""Stand-ins for the custom ops that vLLM graphs are written with.

Graphs captured from vLLM use ops of the namespaces ``vllm``, ``vllm_ir`` and ``_C``. Where vLLM is
not installed, :func:`declare` registers them with the same schemas, a shape rule (so that
FakeTensorMode can propagate) and a plain CPU implementation (so that a rewritten graph can be run
and compared). Ops that exist already are left alone.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from spfast.testing.quantisations import PLAIN, WRITING
from spfast.testing.scaled_products import BATCHED, CUTLASS

logger = logging.getLogger("spfast")

_LIBRARIES: dict[str, Any] = {}
_GROUPS: dict[str, dist.ProcessGroup] = {}


@dataclass(frozen=True)
class OpDeclaration:
    """One op to declare: its full schema, what it computes, and the shapes it gives."""

    namespace: str
    schema: str
    compute: Callable[..., Any]
    fake: Callable[..., Any]

    @property
    def name(self) -> str:
        """Name of the op inside its namespace."""
        return self.schema.split("(", 1)[0]


# --- process groups -----------------------------------------------------------------------------


def register_group(name: str, group: dist.ProcessGroup) -> None:
    """Makes ``name``, as graphs spell it ("tp:0"), stand for ``group`` in the declared ops.

    Groups that torch.distributed knows by that name already need no registration.

    Example:
        >>> import torch.distributed as dist
        >>> from spfast.testing import ops
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> ops.register_group("one:0", dist.group.WORLD)
        >>> dist.destroy_process_group()
    """
    _GROUPS[name] = group


def resolve_group(name: str) -> dist.ProcessGroup:
    """Returns the process group called ``name``.

    Raises:
        ValueError: no group of that name was registered here or with torch.distributed.
    """
    if name in _GROUPS:
        return _GROUPS[name]
    try:
        resolve: Any = vars(dist.distributed_c10d)["_resolve_process_group"]
        resolved: dist.ProcessGroup = resolve(name)
    except Exception as error:
        raise ValueError(
            f"no process group is called {name!r}: "
            "pass it to spfast.testing.ops.register_group first"
        ) from error
    return resolved


# --- collectives --------------------------------------------------------------------------------


def _all_reduce(x: torch.Tensor, group_name: str) -> torch.Tensor:
    # Through host memory: gloo's own way with a GPU's is not to be relied upon.
    result = x.clone(memory_format=torch.contiguous_format).cpu()
    dist.all_reduce(result, group=resolve_group(group_name))
    return result.to(x.device)


def _reduce_scatter(x: torch.Tensor, dim: int, world_size: int, group_name: str) -> torch.Tensor:
    # Reduced whole, then narrowed: the sum is taken in the order of all_reduce, so that a
    # comparison with the graph before a rewrite can be exact. Backends without reduce_scatter work
    # as well.
    if x.shape[dim] % world_size:
        raise ValueError(
            f"reduce_scatter of {x.shape[dim]} rows over {world_size} ranks would lose "
            "rows: pad them first"
        )
    group = resolve_group(group_name)
    local = x.shape[dim] // world_size
    return _all_reduce(x, group_name).narrow(dim, dist.get_rank(group) * local, local).clone()


def gather_bytes(x: torch.Tensor, dim: int, world_size: int, group_name: str) -> torch.Tensor:
    """Gathers along a dim of any dtype: gloo knows neither float8 nor bfloat16 everywhere."""
    local = x.contiguous().cpu()
    raw = local.view(torch.uint8) if local.dim() else local.reshape(1).view(torch.uint8)
    parts = [torch.empty_like(raw) for _ in range(world_size)]
    dist.all_gather(parts, raw, group=resolve_group(group_name))
    if x.itemsize == 1:  # the CPU has no cat of float8
        whole = torch.cat([part.view(x.shape) for part in parts], dim=dim)
        return whole.view(x.dtype).to(x.device)
    return torch.cat([part.view(x.dtype) for part in parts], dim=dim).to(x.device)


def _reduce_scatter_fake(
    x: torch.Tensor, dim: int, world_size: int, group_name: str
) -> torch.Tensor:
    shape = list(x.shape)
    shape[dim] = shape[dim] // world_size
    return x.new_empty(shape)


def _all_gather_fake(x: torch.Tensor, dim: int, world_size: int, group_name: str) -> torch.Tensor:
    shape = list(x.shape)
    shape[dim] = shape[dim] * world_size
    return x.new_empty(shape)


# --- norms and quantisation ---------------------------------------------------------------------


def _normalise(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    wide = x.to(torch.float32)
    measured = wide if variance_size is None else wide[..., :variance_size]
    scale = torch.rsqrt(measured.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    normed = (wide * scale).to(x.dtype)
    return normed if weight is None else normed * weight


def _ir_fused_add_rms_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    summed = x + x_residual
    return _normalise(summed, weight, epsilon, variance_size), summed


def _ir_fused_add_rms_norm_fake(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _contiguous_like(x), _contiguous_like(x)


def _c_rms_norm(
    result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> None:
    result.copy_(_normalise(input, weight, epsilon))


def _c_fused_add_rms_norm(
    input: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> None:
    residual.add_(input)
    input.copy_(_normalise(residual, weight, epsilon))


def _c_static_scaled_fp8_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    scale: torch.Tensor,
    group_shape: list[int] | None = None,
) -> None:
    # Clamped to the range of float8_e4m3fn whatever the result holds: a float32 result keeps every
    # digit, which is what an exact comparison of two graphs wants.
    limit = torch.finfo(torch.float8_e4m3fn).max
    scaled = input.to(torch.float32) * scale.to(torch.float32).reciprocal()
    result.copy_(scaled.clamp(-limit, limit).to(result.dtype))


def _contiguous_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _first_like(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return _contiguous_like(x)


def _nothing(*_: Any, **__: Any) -> None:
    return None


_NORM = "Tensor? weight, float epsilon, int? variance_size=None"
_MOVE = "(Tensor x, int dim, int world_size, str group_name) -> Tensor"

DECLARATIONS: tuple[OpDeclaration, ...] = (
    OpDeclaration(
        "vllm", "all_reduce(Tensor x, str group_name) -> Tensor", _all_reduce, _first_like
    ),
    OpDeclaration("vllm", f"reduce_scatter{_MOVE}", _reduce_scatter, _reduce_scatter_fake),
    OpDeclaration("vllm", f"all_gather{_MOVE}", gather_bytes, _all_gather_fake),
    OpDeclaration("vllm_ir", f"rms_norm(Tensor x, {_NORM}) -> Tensor", _normalise, _first_like),
    OpDeclaration(
        "vllm_ir",
        f"fused_add_rms_norm(Tensor x, Tensor x_residual, {_NORM}) -> (Tensor, Tensor)",
        _ir_fused_add_rms_norm,
        _ir_fused_add_rms_norm_fake,
    ),
    OpDeclaration(
        "_C",
        "rms_norm(Tensor(a!) result, Tensor input, Tensor weight, float epsilon) -> ()",
        _c_rms_norm,
        _nothing,
    ),
    OpDeclaration(
        "_C",
        "fused_add_rms_norm(Tensor(a!) input, Tensor(b!) residual, Tensor weight, "
        "float epsilon) -> ()",
        _c_fused_add_rms_norm,
        _nothing,
    ),
    OpDeclaration(
        "_C",
        "static_scaled_fp8_quant(Tensor(a!) result, Tensor input, Tensor scale, "
        "int[]? group_shape=None) -> ()",
        _c_static_scaled_fp8_quant,
        _nothing,
    ),
    OpDeclaration("_C", *CUTLASS, _nothing),
    OpDeclaration("vllm", *BATCHED),
    *(OpDeclaration("_C", schema, compute, _nothing) for schema, compute in WRITING),
    *(OpDeclaration("_C", schema, compute, fake) for schema, compute, fake in PLAIN),
)


def _fragment(namespace: str) -> Any:
    make: Any = torch.library.Library  # torch leaves it untyped
    return make(namespace, "FRAGMENT")


def _exists(entry: OpDeclaration) -> bool:
    name, _, overload = entry.name.partition(".")
    packet = getattr(getattr(torch.ops, entry.namespace), name, None)
    return packet is not None and (overload or "default") in packet.overloads()


def declare() -> tuple[str, ...]:
    """Declares the ops of vLLM that this process lacks, once; a second call does nothing.

    Nothing is declared where vLLM is installed: its own ops win, and two definitions of one op
    cannot live together.

    Returns:
        The qualified names ("vllm.all_reduce", ...) that this call declared.

    Example:
        >>> import torch
        >>> from spfast.testing import ops
        >>> _ = ops.declare()
        >>> torch.ops.vllm_ir.rms_norm(torch.ones(2, 4), None, 1e-6).shape
        torch.Size([2, 4])
    """
    found = importlib.util.find_spec("vllm")
    if found is not None and found.origin is not None:  # not just a folder of that name
        return ()
    declared = []
    for entry in DECLARATIONS:
        if _exists(entry):
            continue
        library = _LIBRARIES.get(entry.namespace)
        if library is None:
            library = _fragment(entry.namespace)
            _LIBRARIES[entry.namespace] = library
        library.define(entry.schema)
        library.impl(entry.name, entry.compute, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{entry.namespace}::{entry.name}", entry.fake, lib=library)
        declared.append(f"{entry.namespace}.{entry.name}")
    if declared:
        logger.debug("declared stand-ins for %s", ", ".join(declared))
    return tuple(declared)
