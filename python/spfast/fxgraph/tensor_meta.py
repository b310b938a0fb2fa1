"""``meta["tensor_meta"]`` of resized nodes: what tracing would note of their new values.

torch asks a value for each memory format. This takes longer than to make the value, and many times
longer where its size is symbolic. All values of one size, stride and dtype have the same answer, so
torch is asked once for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

__all__ = ["Describer", "tensor_metas"]


class Describer:
    """Asks torch once for each size, stride and dtype.

    Example:
        >>> with torch._C.DisableTorchFunctionSubclass():
        ...     Describer().describe((torch.empty(2, 4), None))[0].stride
        (4, 1)
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def describe(self, value: Any) -> Any:
        """What tracing would note of a value: a tensor, or a tuple or list of tensors and None."""
        if isinstance(value, (tuple, list)):
            return type(value)(self.describe(item) for item in value)
        if not isinstance(value, torch.Tensor):
            return None
        key: Any = (value.shape, value.stride(), value.dtype, value.requires_grad)
        if value._has_symbolic_sizes_strides:
            key = (_written(key[0]), _written(key[1]), *key[2:])
        found = self._known.get(key)
        if found is None:
            from torch.fx.passes.shape_prop import _extract_tensor_metadata

            found = self._known[key] = _extract_tensor_metadata(value)
        return found


def tensor_metas(nodes: Iterable[fx.Node], values: Sequence[Any]) -> list[Any]:
    """Describes the new values of nodes that have ``tensor_meta``.

    Args:
        nodes: The nodes that get a value.
        values: Their values: a tensor, or a tuple or list of tensors and None.

    Returns:
        For each node what its ``tensor_meta`` becomes; None for a node that has none.

    Example:
        >>> node = fx.Graph().placeholder("x")
        >>> tensor_metas([node], [torch.empty(2, 4)])
        [None]
        >>> node.meta["tensor_meta"] = None
        >>> tensor_metas([node], [torch.empty(2, 4)])[0].stride
        (4, 1)
    """
    describe = Describer().describe
    # As in meta.py: torch takes long to find out that a fake tensor has no __torch_function__.
    with torch._C.DisableTorchFunctionSubclass():
        return [
            describe(value) if "tensor_meta" in node.meta else None
            for node, value in zip(nodes, values, strict=True)
        ]


def _written(sizes: Sequence[Any]) -> tuple[Any, ...]:
    """Sizes that can be compared: a symbolic one by its expression, as it was written."""
    return tuple([size if type(size) is int else size.node._expr for size in sizes])
