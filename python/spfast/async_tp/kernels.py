"""Kernels of ours behind torch's fused operators, for the groups that ask for them.

The operators stay torch's, so a graph, a compile cache and the verifier see no difference. Where a
kernel here cannot do something, torch's does it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from spfast.async_tp.exchange import Exchange, ranks_of
from spfast.async_tp.pipelines import aligned, gather_and_multiply, multiply_and_scatter

__all__ = ["install", "use_kernels"]

# Argument names of the operators, as the kernels take them.
_KNOWN = {
    "fused_all_gather_matmul": "A Bs gather_dim group_name return_A",
    "fused_all_gather_scaled_matmul": "A Bs A_scale B_scales gather_dim group_name biases "
    "result_scales out_dtypes use_fast_accum",
    "fused_matmul_reduce_scatter": "A B reduce_op scatter_dim group_name",
    "fused_scaled_matmul_reduce_scatter": "A B A_scale B_scale reduce_op orig_scatter_dim "
    "scatter_dim_after_maybe_reshape group_name output_shape bias result_scale out_dtype "
    "use_fast_accum",
}
_groups: set[str] = set()
_library: Any = None

Kernel = Callable[..., Any]


def use_kernels(group: str, ours: bool) -> None:
    """Says whose kernels the fused operators have in a group, from the next call on."""
    if ours:
        install()
        _groups.add(group)
    else:
        _groups.discard(group)


def install() -> bool:
    """Puts the kernels behind the operators, for the rest of the process; one call is enough.

    Returns:
        Whether they are there: not where there is no CUDA, or where this torch declares other
        operators than those that are known here.
    """
    global _library
    if _library is not None or not torch.cuda.is_available():
        return _library is not None
    import torch.distributed._symmetric_memory as module

    theirs: dict[str, Kernel] = {}
    for name, arguments in _KNOWN.items():
        operator = getattr(getattr(torch.ops.symm_mem, name, None), "default", None)
        kernel = getattr(module, f"_{name}", None)
        if operator is None or kernel is None:
            return False
        if [each.name for each in operator._schema.arguments] != arguments.split():
            return False
        theirs[name] = kernel
    make: Any = torch.library.Library  # torch leaves it untyped
    library = make("symm_mem", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a kernel takes another's place
            for name, ours in _KERNELS.items():
                library.impl(name, _or_theirs(ours, theirs[name]), "CUDA", allow_override=True)
    except TypeError:  # an older torch, whose kernels nobody may override
        return False
    _library = library
    return True


def _or_theirs(ours: Kernel, theirs: Kernel) -> Kernel:
    """Our kernel, but torch's where ours declines, and for groups that did not ask for ours."""
    names = _KNOWN[ours.__name__.removeprefix("_")].split()
    group_at = names.index("group_name")

    def run(*args: Any, **kwargs: Any) -> Any:
        group = args[group_at] if len(args) > group_at else kwargs["group_name"]
        if group in _groups:
            found = ours(*args, **kwargs)
            if found is not None:
                return found
        return theirs(*args, **kwargs)

    return run


def _fused_all_gather_matmul(
    A: torch.Tensor,
    Bs: Sequence[torch.Tensor],
    gather_dim: int,
    group_name: str,
    *,
    return_A: bool = True,
) -> Any:
    calls = [_Plain(right) for right in Bs]
    return _gathered(A, None, calls, gather_dim, group_name, return_A)


def _fused_all_gather_scaled_matmul(
    A: torch.Tensor,
    Bs: Sequence[torch.Tensor],
    A_scale: torch.Tensor,
    B_scales: Sequence[torch.Tensor],
    gather_dim: int,
    group_name: str,
    biases: Sequence[torch.Tensor | None],
    result_scales: Sequence[torch.Tensor | None],
    out_dtypes: Sequence[Any],
    use_fast_accum: Sequence[bool],
) -> Any:
    by_row = A_scale.shape == (*A.shape[:-1], 1)
    if (by_row and gather_dim != 0) or (not by_row and A_scale.numel() != 1):
        return None
    calls = [
        _Scaled(*each)
        for each in zip(
            *(Bs, B_scales, biases, result_scales, map(_dtype, out_dtypes), use_fast_accum),
            strict=True,
        )
    ]
    for call in calls:
        call.scale = None if by_row else A_scale
    return _gathered(A, A_scale if by_row else None, calls, gather_dim, group_name, True)


def _fused_matmul_reduce_scatter(
    A: torch.Tensor, B: torch.Tensor, reduce_op: str, scatter_dim: int, group_name: str
) -> Any:
    if not 0 <= scatter_dim < A.dim() - 1:
        return None
    rows = A if scatter_dim == 0 else A.movedim(scatter_dim, 0)
    flat = A if A.dim() == 2 else rows.flatten(0, -2)
    found = _scattered(flat, None, _Plain(B), reduce_op, group_name)
    if found is None or A.dim() == 2:
        return found
    if scatter_dim == 0:
        return found.view(-1, *A.shape[1:-1], B.shape[1])
    return found.view(-1, *rows.shape[1:-1], B.shape[1]).movedim(0, scatter_dim).contiguous()


def _fused_scaled_matmul_reduce_scatter(
    A: torch.Tensor,
    B: torch.Tensor,
    A_scale: torch.Tensor,
    B_scale: torch.Tensor,
    reduce_op: str,
    orig_scatter_dim: int,
    scatter_dim_after_maybe_reshape: int,
    group_name: str,
    output_shape: Sequence[int],
    bias: torch.Tensor | None = None,
    result_scale: torch.Tensor | None = None,
    out_dtype: Any = None,
    use_fast_accum: bool = False,
) -> Any:
    if (orig_scatter_dim, scatter_dim_after_maybe_reshape, A.dim()) != (0, 0, 2):
        return None
    by_row = A_scale.numel() != 1
    if by_row and A_scale.shape != (A.shape[0], 1):
        return None
    call = _Scaled(B, B_scale, bias, result_scale, _dtype(out_dtype) or A.dtype, use_fast_accum)
    call.scale = None if by_row else A_scale
    found = _scattered(A, A_scale if by_row else None, call, reduce_op, group_name)
    return None if found is None else found.view(-1, *output_shape[1:])


class _Plain:
    """The product x w, of one dtype."""

    def __init__(self, right: torch.Tensor) -> None:
        self.right, self.out_dtype = right, right.dtype

    def __call__(self, left: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        torch.mm(left[0], self.right, out=out)


class _Scaled:
    """The product x w of float8 values; x has one scale, or a scale for each row."""

    def __init__(
        self,
        right: torch.Tensor,
        right_scale: torch.Tensor,
        bias: torch.Tensor | None,
        result_scale: torch.Tensor | None,
        out_dtype: torch.dtype | None,
        fast: bool,
    ) -> None:
        self.right, self.out_dtype = right, out_dtype or right.dtype
        self.scale: torch.Tensor | None = None
        self._rest = (right_scale, bias, result_scale, out_dtype, fast)

    def __call__(self, left: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        scale = left[1] if self.scale is None else self.scale
        # The call through torch.ops would take the host twice as long.
        torch._scaled_mm(left[0], self.right, scale, *self._rest, out=out)


def _gathered(
    left: torch.Tensor,
    scale: torch.Tensor | None,
    calls: Sequence[_Plain | _Scaled],
    dim: int,
    group: str,
    returns: bool,
) -> Any:
    """The gathered rows (or None) and the products; None in place of both where we decline."""
    if not 0 <= dim < left.dim() - 1:
        return None
    turned = left if dim == 0 else left.movedim(dim, 0)
    mine = [(turned if left.dim() == 2 else turned.flatten(0, -2)).contiguous()]
    if scale is not None:
        mine.append(scale.flatten(0, -2).contiguous())
    memory = Exchange(group, sum(aligned(each.nbytes) for each in mine))
    ranks, rows = memory.ranks, mine[0].shape[0]
    outs = [
        left.new_empty(rows * ranks, call.right.shape[1], dtype=call.out_dtype) for call in calls
    ]
    whole = left.new_empty(rows * ranks, left.shape[-1]) if returns else None

    def multiply(part: Sequence[torch.Tensor], of: int) -> None:
        for call, out in zip(calls, outs, strict=True):
            call(part, out.narrow(0, of * rows, rows))

    gather_and_multiply(memory, mine, multiply, whole)
    if left.dim() == 2:
        return whole, outs
    sizes = (ranks * turned.shape[0], *turned.shape[1:-1])

    def shaped(value: torch.Tensor) -> torch.Tensor:
        return value.view(*sizes, -1).movedim(0, dim)

    return (None if whole is None else shaped(whole)), [shaped(out) for out in outs]


def _scattered(
    left: torch.Tensor,
    scale: torch.Tensor | None,
    call: _Plain | _Scaled,
    reduce_op: str,
    group: str,
) -> torch.Tensor | None:
    """This rank's rows of a product's sum over the ranks; None where we decline."""
    ranks = ranks_of(group)
    if reduce_op not in ("sum", "avg") or left.shape[0] % ranks:
        return None
    shape = (left.shape[0] // ranks, call.right.shape[1])
    size = math.prod(shape) * call.out_dtype.itemsize
    if size != aligned(size):
        return None
    lefts = left.chunk(ranks)
    scales = None if scale is None else scale.contiguous().chunk(ranks)

    def multiply(of: int, out: torch.Tensor) -> None:
        call([lefts[of]] if scales is None else [lefts[of], scales[of]], out)

    like = left.new_empty(shape, dtype=call.out_dtype)
    return multiply_and_scatter(
        Exchange(group, size, mine=True), multiply, like, mean=reduce_op == "avg"
    )


def _dtype(given: Any) -> torch.dtype | None:
    """A dtype from what the dispatcher passes: in a list this is the dtype's number."""
    return _DTYPES[given] if isinstance(given, int) else given


# As torch numbers them.
_DTYPES = {5: torch.float16, 6: torch.float32, 15: torch.bfloat16}

_KERNELS: dict[str, Kernel] = {
    each.__name__.removeprefix("_"): each
    for each in (
        _fused_all_gather_matmul,
        _fused_all_gather_scaled_matmul,
        _fused_matmul_reduce_scatter,
        _fused_scaled_matmul_reduce_scatter,
    )
}
