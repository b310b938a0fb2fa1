"""Stand-ins of symmetric memory's fused operators: the same results, collective by collective.

The computation is written once, as steps that stop at each collective. The lockstep interpreter
performs the collective among its ranks, and the kernels for the CPU perform it on a gloo group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from spfast.async_tp.symmetric import fused_operator, stand_in
from spfast.testing.collectives import CollectiveCall
from spfast.testing.ops import gather_bytes, resolve_group

__all__ = ["async_tp_stand_in", "fused_steps", "is_fused"]

Steps = Generator[CollectiveCall, torch.Tensor, Any]

_LIBRARIES: list[Any] = []
_KERNELS = (
    "fused_all_gather_matmul",
    "fused_all_gather_scaled_matmul",
    "fused_matmul_reduce_scatter",
    "fused_scaled_matmul_reduce_scatter",
)


def is_fused(target: object) -> bool:
    """Whether a function is one of the fused operators.

    Example:
        >>> is_fused(torch.ops.aten.mm.default)
        False
    """
    return isinstance(target, torch._ops.OpOverload) and (
        target.namespace == "symm_mem" and target._opname in _KERNELS
    )


@contextlib.contextmanager
def async_tp_stand_in() -> Iterator[None]:
    """Lets pairs be fused without NVLink, and the fused operators run on the CPU.

    Every group counts as enabled while the context lasts. The kernels stay for the process.

    Example:
        >>> with async_tp_stand_in():
        ...     pass  # spfast.apply(graph, async_tp=True)
    """
    _declare()
    with stand_in():
        yield


def _declare() -> None:
    if _LIBRARIES or fused_operator(_KERNELS[0]) is None:
        return
    make: Any = torch.library.Library  # torch leaves it untyped
    library = make("symm_mem", "IMPL")
    for name in _KERNELS:
        library.impl(name, _kernel(fused_operator(name)), "CPU")
    _LIBRARIES.append(library)


def _kernel(target: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        steps = fused_steps(target, args, kwargs)
        try:
            call = next(steps)
            while True:
                call = steps.send(_perform(call))
        except StopIteration as stop:
            return stop.value

    return run


def _perform(call: CollectiveCall) -> torch.Tensor:
    """One collective on real ranks; sums as :mod:`spfast.testing.ops` takes them."""
    group = resolve_group(call.group)
    if call.kind == "all_gather":
        return gather_bytes(call.tensor, call.dim, group.size(), call.group)
    whole = call.tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(whole, group=group)
    if call.reduce_op == "avg":
        whole = whole / group.size()
    rows = whole.shape[call.dim] // group.size()
    return whole.narrow(call.dim, dist.get_rank(group) * rows, rows).clone()


def fused_steps(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Steps:
    """What a fused operator computes, stopped at each collective.

    Args:
        target: One of the operators.
        args: Its positional arguments, with real tensors.
        kwargs: Its keyword arguments.

    Yields:
        Each collective; it is sent its result.

    Returns:
        What the operator returns.
    """
    given = {each.name: each.default_value for each in target._schema.arguments}
    names = [each.name for each in target._schema.arguments]
    given |= {**dict(zip(names, args, strict=False)), **kwargs}
    steps = {
        "fused_all_gather_matmul": _gather,
        "fused_all_gather_scaled_matmul": _gather_scaled,
        "fused_matmul_reduce_scatter": _scatter,
        "fused_scaled_matmul_reduce_scatter": _scatter_scaled,
    }
    return steps[target._opname](given)


def _gather(given: dict[str, Any]) -> Steps:
    dim = given["gather_dim"]
    whole = yield _gathers(given["A"], dim, given["group_name"])
    outs = [_laid_out(torch.matmul(whole, right), dim) for right in given["Bs"]]
    return (_laid_out(whole, dim) if given["return_A"] else None), outs


def _gather_scaled(given: dict[str, Any]) -> Steps:
    dim, left, scale = given["gather_dim"], given["A"], given["A_scale"]
    whole = yield _gathers(left, dim, given["group_name"])
    if scale.numel() != 1 and scale.shape[:-1] == left.shape[:-1]:
        scale = yield _gathers(scale, dim, given["group_name"])
    rows = whole.flatten(0, -2).contiguous()
    outs = []
    columns = ("Bs", "B_scales", "biases", "result_scales", "out_dtypes", "use_fast_accum")
    for right, *rest in zip(*(given[name] for name in columns), strict=True):
        out = _scaled(rows, right, scale, *rest)
        outs.append(_laid_out(out.view(*whole.shape[:-1], -1), dim))
    return _laid_out(whole, dim), outs


def _scatter(given: dict[str, Any]) -> Steps:
    part = torch.matmul(given["A"], given["B"])
    return (yield _scatters(part, given["scatter_dim"], given))


def _scatter_scaled(given: dict[str, Any]) -> Steps:
    rows = given["A"].flatten(0, -2).contiguous()
    part = _scaled(
        *(rows, given["B"], given["A_scale"], given["B_scale"], given["bias"]),
        *(given["result_scale"], given["out_dtype"], given["use_fast_accum"]),
    )
    part = part.view(*given["output_shape"][:-1], given["B"].shape[1])
    return (yield _scatters(part, given["orig_scatter_dim"], given))


def _scaled(
    rows: torch.Tensor,
    right: torch.Tensor,
    scale: torch.Tensor,
    right_scale: torch.Tensor,
    bias: torch.Tensor | None,
    result_scale: torch.Tensor | None,
    out_dtype: Any,
    fast: bool,
) -> torch.Tensor:
    if isinstance(out_dtype, int):  # in a list, the dispatcher passes dtypes as numbers
        out_dtype = _DTYPES[out_dtype]
    out: torch.Tensor = torch.ops.aten._scaled_mm(
        *(rows, right, scale.reshape(-1, 1) if scale.numel() > 1 else scale, right_scale),
        *(bias, result_scale, out_dtype, fast),
    )
    return out


# As torch numbers them.
_DTYPES = {5: torch.float16, 6: torch.float32, 15: torch.bfloat16}


def _gathers(rows: torch.Tensor, dim: int, group: str) -> CollectiveCall:
    return CollectiveCall("all_gather", group, rows.contiguous(), dim=dim)


def _scatters(part: torch.Tensor, dim: int, given: dict[str, Any]) -> CollectiveCall:
    group, reduce_op = given["group_name"], given["reduce_op"]
    return CollectiveCall("reduce_scatter", group, part, reduce_op, dim=dim)


def _laid_out(value: torch.Tensor, dim: int) -> torch.Tensor:
    """The value in the strides that the operators give: the gathered dim is the outermost."""
    return value.movedim(dim, 0).contiguous().movedim(0, dim)
