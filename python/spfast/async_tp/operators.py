"""How the fused operators of the torch that runs are called, as the core lays their calls out."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from spfast.async_tp.symmetric import fused_operator
from spfast.fxgraph.targets import target_name

__all__ = [
    "FusedOperators",
    "Layout",
    "LayoutArgument",
    "fused_operators",
    "layout",
    "takes_symbols",
]


class LayoutArgument(NamedTuple):
    """One argument of a fused operator.

    Attributes:
        name: Its name in the schema.
        by_keyword: Whether it is given by keyword.
        given: Whether we give it.
        default: Its value where we do not give it.
    """

    name: str
    by_keyword: bool
    given: bool
    default: Any


class Layout(NamedTuple):
    """How an operator is called.

    Attributes:
        target: The operator's name.
        arguments: Those of its schema, in order.
    """

    target: str
    arguments: tuple[LayoutArgument, ...]


class FusedOperators(NamedTuple):
    """What the core is told of the fused operators; None stands for one that this torch lacks.

    Attributes:
        gather: The all_gather before a product.
        scaled_gather: The same of scaled products.
        scatter: The reduce_scatter behind a product.
        scaled_scatter: The same of a scaled product: with neither, with a bias, with a scale of its
            result, with both.
        symbolic_shape: Whether the last takes symbolic shapes.
    """

    gather: Layout | None
    scaled_gather: Layout | None
    scatter: Layout | None
    scaled_scatter: tuple[Layout | None, ...]
    symbolic_shape: bool


_GATHER = ("A", "Bs", "gather_dim", "group_name")
_SCALED_GATHER = (*_GATHER, "A_scale", "B_scales", "biases", "result_scales", "out_dtypes")
_SCATTER = ("A", "B", "reduce_op", "group_name")
_SCALED_SCATTER = (
    *(*_SCATTER, "A_scale", "B_scale", "orig_scatter_dim", "scatter_dim_after_maybe_reshape"),
    *("output_shape", "out_dtype", "use_fast_accum"),
)
# Of a scaled scatter: a product with neither, with a bias, with a scale of its result, with both.
_MORE = ((), ("bias",), ("result_scale",), ("bias", "result_scale"))


def fused_operators() -> FusedOperators:
    """The fused operators of this torch."""
    scaled = fused_operator("fused_scaled_matmul_reduce_scatter")
    return FusedOperators(
        gather=layout(fused_operator("fused_all_gather_matmul"), (*_GATHER, "return_A")),
        scaled_gather=layout(
            fused_operator("fused_all_gather_scaled_matmul"), (*_SCALED_GATHER, "use_fast_accum")
        ),
        scatter=layout(fused_operator("fused_matmul_reduce_scatter"), (*_SCATTER, "scatter_dim")),
        scaled_scatter=tuple(layout(scaled, (*_SCALED_SCATTER, *more)) for more in _MORE),
        symbolic_shape=scaled is not None and takes_symbols(scaled, "output_shape"),
    )


@functools.lru_cache(maxsize=64)
def layout(target: Any, names: tuple[str, ...]) -> Layout | None:
    """How an operator is called with arguments of these names; None where it cannot be.

    Args:
        target: The operator; or None.
        names: The arguments that are given. The operator must know them all, and need no others.

    Example:
        >>> import torch
        >>> layout(torch.ops.aten.mm.default, ("self", "mat2")).arguments[1]
        LayoutArgument(name='mat2', by_keyword=False, given=True, default=None)
        >>> layout(torch.ops.aten.mm.default, ("self",)) is None
        True
    """
    if target is None:
        return None
    arguments = target._schema.arguments
    known = {each.name for each in arguments}
    asked = {each.name for each in arguments if not each.has_default_value()}
    if not asked <= set(names) <= known:
        return None
    placed = (
        LayoutArgument(each.name, each.kwarg_only, each.name in names, each.default_value)
        for each in arguments
    )
    return Layout(target_name(target), tuple(placed))


@functools.lru_cache(maxsize=64)
def takes_symbols(target: Any, name: str) -> bool:
    """Whether an operator's argument that lists sizes takes symbolic ones.

    Example:
        >>> import torch
        >>> takes_symbols(torch.ops.aten.view.default, "size")
        True
    """
    # The types of a schema's arguments say int for both; its text does not.
    return re.search(rf"SymInt\S* {name}\b", str(target._schema)) is not None
