"""Which calls of a program under construction are kept: those whose values are of use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch

from tests.pool.lockstep import tensors
from tests.pool.program import Dim, Fakes, leaves

LARGEST = 1e4
"""Values beyond this are not kept: differences of rows would drown in rounding."""
MOST_ELEMENTS = 3000


class Rejected(Exception):
    """A call that was tried and is not kept."""


def hint(value: Any) -> int | None:
    """The example value of a size, None if it has none."""
    if not isinstance(value, torch.SymInt):
        return int(value)
    return int(value.node.hint) if value.node.has_hint() else None


def dim_of(size: Any, fakes: Fakes) -> Dim:
    """A size as a program writes it; one that no program can write begins with "~"."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    expr = size.node.expr
    if expr.is_number:
        return int(expr)
    names = {fakes.sizes[name].node.expr: name for name in fakes.sizes}
    parts = []
    for factor, power in expr.as_powers_dict().items():
        if factor not in names and not factor.is_Integer or not power.is_Integer or power < 0:
            return f"~{expr}"
        parts += [names.get(factor, str(factor))] * int(power)
    return "*".join(sorted(parts))


def writable(shape: Sequence[Dim]) -> Sequence[Dim]:
    if any(isinstance(size, str) and size.startswith("~") for size in shape):
        raise Rejected("no input has such a size")
    return shape


def fits(small: Sequence[Dim], large: Sequence[Dim]) -> bool:
    return len(small) <= len(large) and all(
        a in (1, b) for a, b in zip(reversed(small), reversed(large), strict=False)
    )


def writes(operator: Any, args: Sequence[Any]) -> bool:
    schema = getattr(operator, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def put_back(now: Sequence[torch.Tensor], kept: Sequence[torch.UntypedStorage]) -> None:
    # Whole storages: an expanded tensor cannot be written to by itself.
    for tensor, old in zip(now, kept, strict=True):
        tensor.untyped_storage().copy_(old)


def narrows(guard: Any) -> bool:
    """Whether a guard says which size it is, rather than in what range or a multiple of what."""
    return isinstance(guard, sympy.Eq) and not any(
        "Mod" in type(each).__name__ for each in sympy.preorder_traversal(guard)
    )


def useful(value: Any) -> None:
    for tensor in tensors(value):
        if tensor.numel() > MOST_ELEMENTS:
            raise Rejected("too large")
        if tensor.dtype.is_complex:
            raise Rejected("complex")
        if tensor.numel() and tensor.dtype.is_floating_point:
            wide = tensor if tensor.dtype.itemsize > 1 else tensor.to(torch.float32)
            if not bool(wide.abs().max() < LARGEST):
                raise Rejected("not finite, or large")
    for each in leaves(value):
        if isinstance(each, (int, float)) and not abs(each) < LARGEST:
            raise Rejected("a large number")


def agree(fake: Any, real: Any) -> None:
    """FakeTensorMode says of each result what the operator does, or the call is of no use."""
    fakes, reals = list(leaves(fake)), list(leaves(real))
    if len(fakes) != len(reals):
        raise Rejected("the fake run yields another number of results")
    for said, is_ in zip(fakes, reals, strict=True):
        if not isinstance(said, torch.Tensor):
            continue
        if said.dtype != is_.dtype or said.dim() != is_.dim():
            raise Rejected("the fake run yields another type")
        for a, b in zip(said.shape, is_.shape, strict=True):
            if hint(a) not in (None, b):
                raise Rejected("the fake run yields another shape")
        for a, b, size in zip(said.stride(), is_.stride(), is_.shape, strict=True):
            if size > 1 and is_.numel() and hint(a) not in (None, b):
                raise Rejected("the fake run yields other strides")
        if hint(said.storage_offset()) not in (None, is_.storage_offset()) and is_.numel():
            raise Rejected("the fake run yields another offset")
