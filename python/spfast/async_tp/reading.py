"""How the nodes of a graph are read: arguments by name, sizes, and what only looks otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

__all__ = [
    "arguments",
    "is_bit_view",
    "is_cast",
    "is_identity",
    "is_row_major",
    "is_view",
    "list_sizes",
    "product_of",
    "same_size",
    "tensor",
]

_aten = torch.ops.aten
_VIEWS = frozenset(
    {
        _aten.view.default,
        _aten.reshape.default,
        _aten._unsafe_view.default,
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
        _aten.flatten.using_ints,
    }
)
_IDENTITIES = frozenset(
    {_aten.clone.default, _aten.alias.default, _aten.detach.default, _aten.contiguous.default}
)
_CASTS = frozenset({torch.ops.prims.convert_element_type.default, _aten._to_copy.default})


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of an operator by their names, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    found = dict(node.kwargs)
    for place, argument in enumerate(schema.arguments):
        if place < len(node.args):
            found[argument.name] = node.args[place]
        elif argument.name not in found:
            found[argument.name] = argument.default_value
    return found


def tensor(node: Any) -> torch.Tensor | None:
    """What a node's value looks like; None where that is not known."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


def same_size(left: Any, right: Any) -> bool:
    """Whether two sizes are the same number or the same expression; no guard is added."""
    if isinstance(left, int) or isinstance(right, int):
        return type(left) is type(right) and bool(left == right)
    return bool(left.node.expr == right.node.expr)


def list_sizes(shape: Sequence[Any]) -> list[Any] | None:
    """A shape as a view takes it: -1 for a symbolic size; None where there are several."""
    symbolic = sum(not isinstance(size, int) for size in shape)
    return [size if isinstance(size, int) else -1 for size in shape] if symbolic < 2 else None


def product_of(sizes: Sequence[Any]) -> Any:
    """The product of sizes; 1 for none."""
    product: Any = 1
    for size in sizes:
        if type(size) is int and size == 1:
            continue
        product = size if type(product) is int and product == 1 else product * size
    return product


def is_row_major(value: torch.Tensor) -> bool:
    """Whether the elements lie one after the other; no guard is added."""
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if type(size) is int and size == 1:
            continue
        if not same_size(stride, expected):
            return False
        expected = product_of((expected, size))
    return True


def is_view(node: fx.Node) -> bool:
    """Whether a node shows its first argument's elements, in their order, in another shape."""
    return node.op == "call_function" and node.target in _VIEWS


def is_identity(node: fx.Node) -> bool:
    """Whether a node yields what its first argument holds."""
    return node.op == "call_function" and node.target in _IDENTITIES


def is_bit_view(node: fx.Node) -> bool:
    """Whether a node shows the same bytes as elements of another dtype that is as wide."""
    if node.op != "call_function" or node.target is not _aten.view.dtype:
        return False
    before, after = tensor(node.args[0]), tensor(node)
    return before is not None and after is not None and before.itemsize == after.itemsize


def is_cast(node: fx.Node) -> bool:
    """Whether a node rounds its first argument to another dtype, and does nothing else."""
    if node.op != "call_function" or node.target not in _CASTS:
        return False
    before, after = tensor(node.args[0]), tensor(node)
    if before is None or after is None or not set(node.kwargs) <= {"dtype"}:
        return False
    return before.device == after.device
