"""A matrix product whose sum over the ranks is scattered: one operator."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from spfast.async_tp.collectives import Collective
from spfast.async_tp.products import Product, Scales, product
from spfast.async_tp.reading import (
    is_cast,
    is_identity,
    is_view,
    list_sizes,
    product_of,
    same_size,
    tensor,
)
from spfast.async_tp.symmetric import accepts, bind, fused_operator, takes_symbols, torch_group_name
from spfast.edits import Edits
from spfast.graphs import only_reader

__all__ = ["ScatterPair", "find_scatter_pair"]

_aten = torch.ops.aten
_view = _aten.reshape.default
_NONE = "what it sums is no matrix product"


@dataclass(frozen=True)
class ScatterPair:
    """A product and the reduce_scatter that reads it alone.

    Attributes:
        collective: The reduce_scatter.
        product: What it sums.
        result: The node whose place the fused operator takes.
        inside: Everything that goes, in graph order but for the collective's own nodes.
        target: The fused operator.
        shape: The product's shape where its rows are scattered along another dim than the first;
            else empty.
    """

    collective: Collective
    product: Product
    result: fx.Node
    inside: tuple[fx.Node, ...]
    target: Any
    shape: tuple[Any, ...] = field(default=())

    @property
    def products(self) -> tuple[Product, ...]:
        """The one product."""
        return (self.product,)

    @property
    def reads(self) -> list[fx.Node]:
        """What is read at another time than before."""
        scales = () if self.product.scales is None else (self.product.scales.left,)
        return [self.product.matrix, *self.product.operands, *scales]

    @property
    def operator(self) -> str:
        """The fused operator's name."""
        return str(self.target.__name__).split(".")[0]

    @property
    def tokens(self) -> Any:
        """Rows that are scattered."""
        return product_of(_shape(self.product.matrix)[:-1])

    @property
    def features(self) -> Any:
        """What each row has."""
        return _shape(self.product.value)[-1]

    def fuse(self, edits: Edits) -> fx.Node:
        """Puts the fused operator in the place of both."""
        before, result = self.collective.call, tensor(self.result)
        value = tensor(self.product.value)
        assert value is not None and result is not None
        sizes = list(self.shape or value.shape)
        sizes[self.collective.dim] = sizes[self.collective.dim] // self.collective.size
        same = len(sizes) == result.dim() and same_size(sizes[-1], result.shape[-1])
        mine = result if same else value.new_empty(sizes)
        args, kwargs = self._arguments(edits, before)
        fused = edits.call(before, self.target, args, kwargs, self.product.value, mine)
        now = fused
        if not same:
            listed = list_sizes(result.shape)
            now = edits.call(before, _view, (fused, listed), {}, self.result, result)
        edits.replace_uses(self.result, now)
        unfinished = self.collective.call
        for user in [user for user in unfinished.users if user.op == "output"]:
            edits.replace_input(user, unfinished, now)  # saved for another graph, which waits
        return fused

    def _arguments(self, edits: Edits, before: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        left = self.product.matrix
        value = tensor(left)
        assert value is not None
        listed = list_sizes(self.shape or _shape(self.product.value))
        assert listed is not None
        if self.shape:
            sizes = [*self.shape[:-1], value.shape[-1]]
            left = edits.call(before, _view, (left, sizes), {}, left, value.view(sizes))
        if self.product.scales is not None and -1 in listed:
            rows = _aten.sym_size.int
            listed[0] = edits.call(before, rows, (left, 0), {}, left, value.shape[0])
        return _bound(self, left, listed)


def find_scatter_pair(scatter: Collective) -> ScatterPair | str:
    """The product that a reduce_scatter sums; or why there is none to fuse with."""
    if scatter.reduce_op not in ("sum", "avg"):
        return f"its reduce op is {scatter.reduce_op}, and a fused operator has sum and avg"
    part, inside = scatter.operand, list(scatter.inside)
    wide: torch.dtype | None = None
    while is_view(part) or is_identity(part) or is_cast(part):
        if len(part.users) != 1:
            return "its product is read elsewhere, too"
        if is_cast(part):
            if wide is not None:
                return _NONE
            wide = tensor(part).dtype  # type: ignore[union-attr]
        inside.insert(0, part)
        part = part.args[0]  # type: ignore[assignment]
    if _is_fused(part):
        return "its product hides an all_gather already"
    found = product(part) or product(_maker(part))
    if found is None or isinstance(found, str):
        return found or _NONE
    if found.value in inside:  # bmm_fp8 ends in a view
        del inside[: inside.index(found.value) + 1]
    if len(found.value.users) != 1 or any(len(each.users) != 1 for each in found.inside[:-1]):
        return "its product is read elsewhere, too"
    if found.addend is not None:
        return "its product has an addend, which is summed over the ranks, too"
    result = scatter.value
    if wide is not None:
        narrow = only_reader(result)
        if narrow is None or not is_cast(narrow):
            return "its product is cast before it is summed"
        if tensor(narrow).dtype != tensor(found.value).dtype:  # type: ignore[union-attr]
            return "its product is cast before it is summed"
        if wide.itemsize < tensor(found.value).itemsize:  # type: ignore[union-attr]
            return "its product is cast before it is summed"
        inside.append(narrow)
        result = narrow
    return _placed(scatter, found, result, [*found.inside, *inside])


def _is_fused(node: fx.Node) -> bool:
    """Whether a value comes out of a fused operator that gathers."""
    maker = _maker(_maker(node))
    return getattr(maker.target, "namespace", "") == "symm_mem"


def _maker(node: fx.Node) -> fx.Node:
    """What a node is an item of, for a product that writes to a buffer; else the node."""
    first = node.args[0] if node.target is operator.getitem else node
    return first if isinstance(first, fx.Node) else node


def _placed(
    scatter: Collective, found: Product, result: fx.Node, inside: list[fx.Node]
) -> ScatterPair | str:
    """The pair, once it is known along which dim what is scattered."""
    moved, left = _shape(scatter.operand), _shape(found.matrix)
    rows = product_of(left[:-1])
    shape: tuple[Any, ...] = ()
    if scatter.dim == 0:
        if isinstance(rows, int) and rows % scatter.size:
            return f"the {rows} rows of its product are no multiple of {scatter.size} ranks"
    elif scatter.dim == len(moved) - 1:
        return "it scatters features, not tokens"
    else:
        if scatter.dim != 1 or found.scales is not None and found.scales.by_row:
            return f"it scatters dim {scatter.dim} of its product"
        if not same_size(moved[-1], _shape(found.value)[-1]):
            return f"it scatters dim {scatter.dim} of its product, viewed otherwise"
        if not all(isinstance(size, int) for size in moved):
            return f"it scatters dim {scatter.dim} of what has a symbolic size"
        shape = tuple(moved)
    name = "fused_matmul_reduce_scatter"
    if found.scales is not None:
        name = "fused_scaled_matmul_reduce_scatter"
    target = fused_operator(name)
    pair = ScatterPair(scatter, found, result, tuple(inside), target, shape)
    if target is None or not accepts(target, _names(found.scales)):
        return f"this torch has no operator symm_mem.{name} that takes what it needs"
    if found.scales is not None and not isinstance(rows, int):
        if not takes_symbols(target, "output_shape"):
            return f"symm_mem.{name} of this torch takes no symbolic number of tokens"
    if list_sizes(_shape(result)) is None or list_sizes(_shape(found.value)) is None:
        return "it has several symbolic sizes"
    return pair


_ALWAYS = ("A", "B", "reduce_op", "group_name")
_SCALED = (
    *(*_ALWAYS, "A_scale", "B_scale", "orig_scatter_dim", "scatter_dim_after_maybe_reshape"),
    *("output_shape", "out_dtype", "use_fast_accum"),
)


def _names(scales: Scales | None) -> tuple[str, ...]:
    """The arguments that a fused operator has to know."""
    if scales is None:
        return (*_ALWAYS, "scatter_dim")
    given = {"bias": scales.bias, "result_scale": scales.result}
    return (*_SCALED, *(name for name, value in given.items() if value is not None))


def _bound(
    pair: ScatterPair, left: fx.Node, sizes: list[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The fused operator's arguments."""
    scatter, found = pair.collective, pair.product
    given: dict[str, Any] = {
        "A": left,
        "B": found.right,
        "reduce_op": scatter.reduce_op,
        "group_name": torch_group_name(scatter.group),
        "scatter_dim": scatter.dim,
    }
    scales = found.scales
    if scales is not None:
        given |= {
            "A_scale": scales.left,
            "B_scale": scales.right,
            "orig_scatter_dim": scatter.dim,
            "scatter_dim_after_maybe_reshape": scatter.dim,
            "output_shape": sizes,
            "bias": scales.bias,
            "result_scale": scales.result,
            "out_dtype": scales.out_dtype,
            "use_fast_accum": scales.fast,
        }
    return bind(pair.target, given)


def _shape(node: fx.Node) -> Any:
    value = tensor(node)
    assert value is not None
    return value.shape
