"""Matrix products that read one gathered value: one operator, which may return it as well."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.async_tp.collectives import Collective
from spfast.async_tp.products import Product, product
from spfast.async_tp.reading import (
    is_row_major,
    list_sizes,
    product_of,
    same_size,
    tensor,
)
from spfast.async_tp.shown import Shown, shown_by
from spfast.async_tp.symmetric import accepts, bind, fused_operator, torch_group_name
from spfast.edits import Edits

__all__ = ["GatherPair", "find_gather_pair"]

_aten = torch.ops.aten
_view = _aten.reshape.default
# As many nodes are moved ahead of a fused operator at most, for one of its products.
_MOST_MOVED = 16


@dataclass(frozen=True)
class GatherPair:
    """A gather and the products that read it.

    Attributes:
        collective: The all_gather.
        products: Those of one kind, in graph order.
        steps: What is done to this rank's rows before they are gathered.
        left_scale: The scale of the left operands: this rank's rows of it where it was gathered,
            too.
        scale_gather: The gather of the scales, which goes if nothing else reads it; or None.
        shown: All nodes that show the gathered rows, in graph order.
        returns: Whether something else reads them as well.
        before: Where the fused operator stands.
        moved: What has to stand before it, and did not, in order.
        target: The fused operator.
    """

    collective: Collective
    products: tuple[Product, ...]
    steps: tuple[fx.Node, ...]
    left_scale: fx.Node | None
    scale_gather: Collective | None
    shown: tuple[fx.Node, ...]
    returns: bool
    before: fx.Node
    moved: tuple[fx.Node, ...]
    target: Any

    @property
    def reads(self) -> list[fx.Node]:
        """What is read at another time than before."""
        scales = () if self.left_scale is None else (self.left_scale,)
        operands = (node for each in self.products for node in each.operands)
        return [self.collective.operand, *operands, *scales]

    @property
    def operator(self) -> str:
        """The fused operator's name."""
        return str(self.target.__name__).split(".")[0]

    @property
    def tokens(self) -> Any:
        """Rows that are gathered."""
        value = tensor(self.collective.value)
        assert value is not None
        return product_of(value.shape[:-1])

    @property
    def features(self) -> Any:
        """What each row has."""
        value = tensor(self.collective.value)
        assert value is not None
        return value.shape[-1]

    @property
    def inside(self) -> tuple[fx.Node, ...]:
        """What goes once nothing reads it, in graph order."""
        of_products = [node for each in self.products for node in each.inside]
        of_scales = () if self.scale_gather is None else self.scale_gather.inside
        return (*self.collective.inside, *self.shown, *of_scales, *of_products)

    def fuse(self, edits: Edits) -> fx.Node:
        """Puts the fused operator in the place of all."""
        for node in self.moved:
            edits.move(node, self.before)
        shard = self._shard(edits)
        value = tensor(self.collective.value)
        rows = tensor(shard)
        assert value is not None and rows is not None
        flat = self.collective.dim == 0
        first = self.products[0]
        seen = tensor(first.left)
        assert seen is not None
        # What the operator returns of the gathered value: its rows, one after the other.
        if not flat:
            whole = _swapped(value, value.shape, seen.dtype)
        elif value.dim() == 2 and value.dtype == seen.dtype:
            whole = value
        else:
            whole = value.new_empty([self.tokens, rows.shape[-1]], dtype=seen.dtype)
        outs = [self._out(each) for each in self.products]
        args, kwargs = _bound(self, shard)
        scaled = first.scales is not None
        returned = whole if self.returns or scaled else None
        fused = edits.call(self.before, self.target, args, kwargs, first.value, (returned, outs))
        if self.returns:
            whole_node = self._item(edits, fused, 0, self.collective.value, whole)
            self._return(edits, whole_node)
        listed = self._item(edits, fused, 1, first.value, outs)
        for place, each in enumerate(self.products):
            out = self._item(edits, listed, place, each.value, outs[place])
            edits.replace_uses(each.value, self._finished(edits, each, out))
        return fused

    def _item(self, edits: Edits, of: fx.Node, place: int, origin: fx.Node, value: Any) -> fx.Node:
        return edits.call(self.before, operator.getitem, (of, place), {}, origin, value)

    def _shard(self, edits: Edits) -> fx.Node:
        """This rank's rows, as the operator gathers them."""
        node = self.collective.operand
        value = tensor(node)
        assert value is not None
        if self.collective.dim == 0 and value.dim() != 2:
            sizes = [product_of(value.shape[:-1]), value.shape[-1]]
            listed = list_sizes(sizes)
            value = value.view(sizes)
            node = edits.call(self.before, _view, (node, listed), {}, node, value)
        for step in self.steps:
            shown = tensor(step)
            assert shown is not None
            args = (node, *step.args[1:])
            value = value.new_empty(value.shape, dtype=shown.dtype)
            node = edits.call(self.before, step.target, args, step.kwargs, step, value)
        return node

    def _out(self, each: Product) -> Any:
        """What the operator yields for a product."""
        value = tensor(each.value)
        if self.collective.dim == 0:
            return value
        assert value is not None
        sizes = (*_shape(self.collective.value)[:-1], value.shape[-1])
        return _swapped(value, sizes, value.dtype)

    def _finished(self, edits: Edits, each: Product, out: fx.Node) -> fx.Node:
        """What a product yielded: in its shape, with its addend."""
        value = tensor(each.value)
        assert value is not None
        if self.collective.dim != 0:
            listed = list_sizes(value.shape)
            out = edits.call(self.before, _view, (out, listed), {}, each.value, value)
        if each.addend is None:
            return out
        summed = value.new_empty(value.shape)
        add = _aten.add.Tensor
        return edits.call(self.before, add, (out, each.addend), {}, each.value, summed)

    def _return(self, edits: Edits, whole: fx.Node) -> None:
        """Lets all else read what the operator returns of the gathered value."""
        value, now = tensor(self.collective.value), tensor(whole)
        assert value is not None and now is not None
        if value.dim() != now.dim():
            listed = list_sizes(value.shape)
            whole = edits.call(
                self.before, _view, (whole, listed), {}, self.collective.value, value
            )
        edits.replace_uses(self.collective.value, whole)


def find_gather_pair(
    gather: Collective, read: Callable[[fx.Node], Collective | None]
) -> GatherPair | str:
    """The products that read a gathered value; or why there are none to fuse with.

    Args:
        gather: The all_gather.
        read: Reads the collective that yields a node; None where none does.
    """
    shape = _shape(gather.operand)
    if gather.dim == len(shape) - 1 and gather.dim > 0:
        return "it gathers features, not tokens"
    shard = tensor(gather.operand)
    assert shard is not None
    if not is_row_major(shard):
        return "the rows that it gathers do not lie one after the other"
    shown = shown_by(gather)
    found, why = _products(shown)
    if not found:
        return why or "no matrix product reads what it gathers"
    if gather.dim != 0 and (gather.dim != 1 or list_sizes(_shape(gather.value)) is None):
        return f"it gathers dim {gather.dim} of what has symbolic sizes"
    best = max(found.values(), key=len)
    return _placed(gather, shown, best, read)


_Kind = tuple[Any, ...]


def _products(
    shown: dict[fx.Node, Shown],
) -> tuple[dict[_Kind, list[Product]], str]:
    """The products that could be one operator together, by kind; and why another is none."""
    found: dict[_Kind, list[Product]] = {}
    why = ""
    for each in shown.values():
        for user in each.node.users:
            if user in shown:
                continue
            one = product(user)
            if one is None:
                continue
            if isinstance(one, str):
                why = one
                continue
            if one.left is not each.node or each.node in one.operands:
                why = why or "a matrix product reads it as another operand than its left one"
                continue
            steps = tuple((step.target, step.args[1:], str(step.kwargs)) for step in each.steps)
            scale = None if one.scales is None else one.scales.left
            found.setdefault((steps, one.scales is not None, scale), []).append(one)
    for several in found.values():
        several.sort(key=lambda one: one.value)
    return found, why


def _placed(
    gather: Collective,
    shown: dict[fx.Node, Shown],
    products: Sequence[Product],
    read: Callable[[fx.Node], Collective | None],
) -> GatherPair | str:
    """The pair of the products whose other operands can be there in time."""
    first = products[0].left
    steps = shown[first].steps
    scale, scale_gather = _scale(gather, products[0], read)
    own = {gather.call, gather.value, *shown}
    if scale_gather is not None:
        own |= {scale_gather.call, scale_gather.value}
    readers = [user for node in shown for user in node.users if user not in shown]
    place = min(readers, default=products[0].inside[0])
    place = min([place, *[node for node in shown if node is not gather.value]])
    kept, moved = [], dict[fx.Node, None]()
    for each in products:
        needed = [*each.operands, *([scale] if scale is not None else [])]
        ahead = _ahead(needed, place, own | {node for one in products for node in one.inside})
        if ahead is not None:
            kept.append(each)
            moved.update(dict.fromkeys(ahead))
    if not kept:
        return "the other operand of its product is not there before it is read"
    inside = {node for each in kept for node in each.inside}
    live = {user for node in shown for user in node.users} - inside - shown.keys()
    if live and steps:
        return "what it gathers is read as another dtype, too"
    name = "fused_all_gather_matmul"
    if kept[0].scales is not None:
        name = "fused_all_gather_scaled_matmul"
        if gather.dim != 0 and kept[0].scales.by_row:
            return f"it gathers dim {gather.dim} of what has a scale a row"
    pair = GatherPair(
        gather,
        tuple(kept),
        steps,
        scale,
        scale_gather,
        tuple(sorted(node for node in shown if node is not gather.value)),
        bool(live),
        place,
        tuple(sorted(moved)),
        fused_operator(name),
    )
    if pair.target is None or not accepts(pair.target, _SCALED if scale is not None else _PLAIN):
        return f"this torch has no operator symm_mem.{name} that takes what it needs"
    if any(list_sizes(_shape(node)) is None for node in (gather.operand, gather.value)):
        return "it has several symbolic sizes"
    return pair


def _scale(
    gather: Collective, one: Product, read: Callable[[fx.Node], Collective | None]
) -> tuple[fx.Node | None, Collective | None]:
    """The scale of the left operand: where its rows were gathered likewise, this rank's."""
    if one.scales is None:
        return None, None
    scale = one.scales.left
    other = read(scale)
    if other is None or not one.scales.by_row or other.dim != 0 or gather.dim != 0:
        return scale, None
    if (other.group, other.size) != (gather.group, gather.size):
        return scale, None
    mine, rows = tensor(other.operand), tensor(gather.operand)
    if mine is None or rows is None or mine.dim() != 2 or rows.dim() != 2:
        return scale, None
    if not same_size(mine.shape[0], rows.shape[0]) or not is_row_major(mine):
        return scale, None
    return other.operand, other


def _ahead(operands: Iterable[fx.Node], place: fx.Node, own: set[fx.Node]) -> list[fx.Node] | None:
    """What must be moved before a place so that operands are there; None where it cannot be."""
    found: dict[fx.Node, None] = {}
    pending = [node for node in operands if not node < place]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        if node in own or len(found) >= _MOST_MOVED or not _is_pure(node):
            return None
        found[node] = None
        pending += [each for each in node.all_input_nodes if not each < place]
    return list(found)


def _is_pure(node: fx.Node) -> bool:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if target._schema.is_mutable or target.namespace in ("c10d", "_c10d_functional", "vllm"):
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags


_PLAIN = ("A", "Bs", "gather_dim", "group_name", "return_A")
_SCALED = (
    *("A", "Bs", "A_scale", "B_scales", "gather_dim", "group_name", "biases", "result_scales"),
    *("out_dtypes", "use_fast_accum"),
)


def _bound(pair: GatherPair, shard: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The fused operator's arguments."""
    products = pair.products
    given: dict[str, Any] = {
        "A": shard,
        "Bs": [each.right for each in products],
        "gather_dim": pair.collective.dim,
        "group_name": torch_group_name(pair.collective.group),
        "return_A": pair.returns,
    }
    scales = [each.scales for each in products if each.scales is not None]
    if scales:
        given |= {
            "A_scale": pair.left_scale,
            "B_scales": [each.right for each in scales],
            "biases": [each.bias for each in scales],
            "result_scales": [each.result for each in scales],
            "out_dtypes": [each.out_dtype for each in scales],
            "use_fast_accum": [each.fast for each in scales],
        }
    return bind(pair.target, given)


def _swapped(like: torch.Tensor, sizes: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    """What is gathered along dim 1: the operator lays that dim out first."""
    first, second, *rest = sizes
    return like.new_empty((second, first, *rest), dtype=dtype).transpose(0, 1)


def _shape(node: fx.Node) -> Any:
    value = tensor(node)
    assert value is not None
    return value.shape
