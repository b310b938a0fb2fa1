"""``meta["val"]`` of those nodes of a fused pair whose value no node of the graph had before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["make"]


def make(form: str, value: Any, like: Any, dtype: Any, dim: int, count: int) -> Any:
    """Makes one value in the fake mode and on the device of another.

    Args:
        form: One of ``flat`` (viewed as a matrix), ``cast`` (rounded), ``turned`` (with the leading
            dims of ``like``, dim 1 laid out first, as an operator yields what is gathered along
            it), ``whole`` (all rows as a matrix), ``scattered`` (``like``'s shape with a rank's
            part of ``dim``), ``joined`` (with ``count`` in ``dim``), ``viewed`` (with the leading
            dims of ``like``), ``rows`` (a number) and ``fresh`` (the same with a storage of its
            own).
        value: The value it comes from.
        like: Another one; or None.
        dtype: A value with the dtype that is wanted; or None.
        dim: The dim that is scattered or joined.
        count: The number of ranks that share the dim; or the size that a joined dim gets.

    Example:
        >>> tuple(make("scattered", torch.empty(8, 3), torch.empty(8, 3), None, 0, 4).shape)
        (2, 3)
    """
    return _FORMS[form](value, like, dtype, dim, count)


def _flat(value: torch.Tensor, *_: Any) -> torch.Tensor:
    return value.view([_product_of(value.shape[:-1]), value.shape[-1]])


def _cast(value: torch.Tensor, like: Any, dtype: torch.Tensor, *_: Any) -> torch.Tensor:
    return value.new_empty(value.shape, dtype=dtype.dtype)


def _turned(value: torch.Tensor, like: torch.Tensor, dtype: torch.Tensor, *_: Any) -> torch.Tensor:
    first, second, *rest = (*like.shape[:-1], value.shape[-1])
    return value.new_empty((second, first, *rest), dtype=dtype.dtype).transpose(0, 1)


def _whole(value: torch.Tensor, like: Any, dtype: torch.Tensor, *_: Any) -> torch.Tensor:
    return value.new_empty([_product_of(value.shape[:-1]), value.shape[-1]], dtype=dtype.dtype)


def _scattered(
    value: torch.Tensor, like: torch.Tensor, dtype: Any, dim: int, count: int
) -> torch.Tensor:
    sizes = list(like.shape)
    sizes[dim] = sizes[dim] // count
    return value.new_empty(sizes)


def _joined(value: torch.Tensor, like: Any, dtype: Any, dim: int, count: int) -> torch.Tensor:
    sizes = list(value.shape)
    sizes[dim] = count
    return value.new_empty(sizes)


def _viewed(value: torch.Tensor, like: torch.Tensor, *_: Any) -> torch.Tensor:
    return value.view([*like.shape[:-1], value.shape[-1]])


def _rows(value: torch.Tensor, *_: Any) -> Any:
    return value.shape[0]


def _fresh(value: torch.Tensor, *_: Any) -> torch.Tensor:
    return value.new_empty(value.shape)


_FORMS: dict[str, Callable[..., Any]] = {
    "flat": _flat,
    "cast": _cast,
    "turned": _turned,
    "whole": _whole,
    "scattered": _scattered,
    "joined": _joined,
    "viewed": _viewed,
    "rows": _rows,
    "fresh": _fresh,
}


def _product_of(sizes: Sequence[Any]) -> Any:
    """The product of sizes; 1 for none."""
    product: Any = 1
    for size in sizes:
        if type(size) is int and size == 1:
            continue
        product = size if type(product) is int and product == 1 else product * size
    return product
