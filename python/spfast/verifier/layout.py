"""How values lie in memory, where operators that read memory, or the caller, can see it."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from spfast.verifier.across import what_it_does
from spfast.verifier.dims import Dims

__all__ = ["otherwise", "reads_memory", "strides_of"]

# Operators of these namespaces compute from the elements of their operands alone, but for those
# whose names have one of the words below.
_BY_ELEMENTS = ("aten", "prims")
_BY_MEMORY = ("stride", "storage", "contiguous")


@functools.lru_cache(maxsize=1024)
def reads_memory(target: Any) -> bool:
    """Whether the strides of operands matter to what an operator computes, or may.

    Example:
        >>> reads_memory(torch.ops.aten.as_strided.default)
        True
        >>> reads_memory(torch.ops.aten.cumsum.default)
        False
    """
    if not isinstance(target, torch._ops.OpOverload):
        module = getattr(target, "__module__", "")
        return module not in ("_operator", "operator", "math", "builtins")
    if what_it_does("call_function", target).group is not None:
        return False
    namespace, short = target._schema.name.split("::", 1)
    return namespace not in _BY_ELEMENTS or any(part in short for part in _BY_MEMORY)


def strides_of(dims: Dims, vals: Sequence[Any]) -> Hashable:
    """How tensors lie in memory; None for anything else."""
    found: list[Hashable] = []
    for val in vals:
        if not isinstance(val, torch.Tensor):
            found.append(None)
            continue
        place = (*val.stride(), val.storage_offset())
        found.append(tuple([dims.of(number) for number in place]))
    return tuple(found)


def otherwise(dims: Dims, before: Any, after: Any) -> str | None:
    """Returns the strides of two tensors of one shape; None where they lie alike.

    A dim of a single element may have any stride.
    """
    if before is after or not isinstance(before, torch.Tensor):
        return None
    for size, was, now in zip(before.shape, before.stride(), after.stride(), strict=True):
        # Expressions are compared, for a comparison of the symbolic numbers would add a guard.
        if dims.of(size) != 1 and not dims.equal(dims.of(was), dims.of(now)):
            return f"{list(after.stride())}, where they were {list(before.stride())}"
    return None
