"""The rule for operators whose result depends on the operands' same element only, as broadcast.

Terms speak about flat sequences of elements, so a broadcast is spelled without shapes. Its key goes
through the result's elements in stretches: for each it says whether the operand goes along or
stays, and how long the stretch is. The outermost stretch needs no length, for the result's size
tells it. One rank's rows and all rows differ in that length alone, so both have the same key.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.dims import Dims
from spfast.verifier.rows import Operand, chunk, unlike
from spfast.verifier.sums import regrouped
from spfast.verifier.values import Kind, Shape, Share, Value

__all__ = ["broadcast_key", "elementwise", "expanded"]


def elementwise(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """An operator that computes element by element; None (with ``ctx.why``) where it cannot."""
    operands: list[Operand] = []
    layout: list[Any] = []
    for argument in args if not kwargs else (*args, *kwargs.values()):
        if isinstance(argument, fx.Node):
            value = ctx.read(argument)
            if value.kind is Kind.SCALAR:
                layout.append(ctx.key(argument))
            else:
                operands.append((argument, value))
                layout.append(None)
        elif isinstance(argument, (list, tuple)) and any(isinstance(a, fx.Node) for a in argument):
            return None
        else:
            layout.append((ctx.key(argument),))
    return _combine(ctx, target, layout, kwargs, operands) if operands else None


def combined(ctx: Context, target: Any, operands: list[Operand]) -> Value | None:
    """What an operator makes of values, element by element."""
    return _combine(ctx, target, [None] * len(operands), {}, operands)


def _combine(
    ctx: Context, target: Any, layout: list[Any], kwargs: dict[str, Any], operands: list[Operand]
) -> Value | None:
    shape = operands[0][1].shape
    store = ctx.store
    if all(
        value.kind is Kind.FULL and value.shape == shape and value.term not in store.blocks
        for _, value in operands
    ):
        term = _term(ctx, target, layout, kwargs, operands, [v.term for _, v in operands])
        return store.full(term, shape)
    aligned = _align(ctx, operands)
    if aligned is None:
        return None
    term = _term(ctx, target, layout, kwargs, operands, aligned.keys)
    if aligned.share is not None:
        return store.shard(term, aligned.share, aligned.shape)
    if aligned.block is not None:
        return store.block(term, *aligned.block, aligned.shape)
    return store.full(term, aligned.shape)


def _term(
    ctx: Context,
    target: Any,
    layout: list[Any],
    kwargs: dict[str, Any],
    operands: Sequence[Operand],
    keys: Sequence[Hashable],
) -> int:
    def make(keys: Sequence[Hashable]) -> int:
        remaining = iter(keys)
        filled = tuple([next(remaining) if item is None else item for item in layout])
        return ctx.store.term(("elements", target, filled, tuple(kwargs) if kwargs else ()))

    terms = [key for key in keys if isinstance(key, int)]  # what is not broadcast
    if len(terms) == len(keys):
        literals = [item for item in layout if item is not None]
        found = regrouped(ctx, target, literals, [node for node, _ in operands], terms, make)
        if found is not None:
            return found
    return make(keys)


@dataclass
class _Aligned:
    """How operands go through the elements of a result.

    Attributes:
        keys: For each operand, its term with the way it is broadcast.
        shape: The result's, as this rank holds it.
        share: The share, where the rows are one rank's chunk.
        block: Where the rows were cut out of a full value: how many rows that value has, the first
            and the end of those cut out, and how many are its own where some were added.
    """

    keys: list[Hashable]
    shape: Shape
    share: Share | None = None
    block: tuple[Any, Any, Any, Any] | None = None


def _align(ctx: Context, operands: Sequence[Operand]) -> _Aligned | None:
    """Lines operands up, element by element; None (with ``ctx.why``) when they do not."""
    for node, value in operands:
        if value.kind is Kind.SHARD:
            return _align_chunks(ctx, operands, value)
        if value.kind is not Kind.FULL:
            ctx.why = f"reads {value.describe()} in {node.name!r}"
            return None
    shape = _broadcast(ctx, operands)
    if shape is None:
        return None
    blocks = ctx.store.blocks
    cut = [value for _, value in operands if value.term in blocks]
    row = _row_of(ctx.dims, cut, shape) if cut else None
    if row is not None and len({blocks[value.term][1:] for value in cut}) == 1:
        block = blocks[cut[0].term][1:]
        others = [value for _, value in operands if value.term not in blocks]
        # The dim has to hold the rows that were cut out. A view may have made one row of several.
        is_by_rows = ctx.dims.equal(shape[row], ctx.dims.plain(block[2] - block[1]))
        if is_by_rows and all(_is_same_for_rows(value, shape, row) for value in others):
            keys = [
                _key(ctx, blocks[value.term][0], value, shape, row, is_cut=True)
                if value.term in blocks
                else _key(ctx, value.term, value, shape, row)
                for _, value in operands
            ]
            return _Aligned(keys, shape, block=block)
    return _Aligned([_key(ctx, value.term, value, shape) for _, value in operands], shape)


def _align_chunks(ctx: Context, operands: Sequence[Operand], first: Value) -> _Aligned | None:
    share, group, blocks = first.share, first.group, ctx.store.blocks
    for node, value in operands:
        if value.kind is Kind.SHARD and value.share != share:
            ctx.why = unlike(share, value.share)
            return None
        if value.kind not in (Kind.SHARD, Kind.FULL):
            ctx.why = f"reads {value.describe()} in {node.name!r}"
            return None
    shape = _broadcast(ctx, operands)
    shards = [value for _, value in operands if value.kind is Kind.SHARD]
    row = None if shape is None else _row_of(ctx.dims, shards, shape)
    if shape is None or row is None:
        node, value = next(
            (o for o in operands if o[1] is not first and o[1].kind is Kind.SHARD),
            next((o for o in operands if o[1] is not first), operands[0]),
        )
        ctx.why = f"mixes {first.describe()} with {value.describe()} in {node.name!r}"
        if value.kind is Kind.FULL:
            ctx.why = f"reads {value.describe()} in {node.name!r} together with {first.describe()}"
        return None
    keys: list[Hashable] = []
    for node, value in operands:
        term, is_shared = value.term, _is_same_for_rows(value, shape, row)
        is_cut = value.kind is Kind.SHARD
        # A single row is not recognised by its dims. It counts as a row where it was cut out.
        if not is_cut and term in blocks and (not is_shared or shape[row] == 1):
            base = chunk(ctx, node, value, share)
            if base is None:
                return None
            if _row_of(ctx.dims, [*shards, value], shape) == row:
                ctx.meet(node, base, group, has_rows=True)
                term, is_cut = base, True
        elif not is_cut and (sample := _of_one_sample(ctx, value, share, shape, row)):
            ctx.meet(node, blocks[term][0], group)
            keys.append(sample)
            continue
        elif not is_cut and is_shared:
            ctx.meet(node, term, group)
        elif not is_cut and _is_repeated(ctx, value, shape, row):
            ctx.meet(node, term, group)
            is_cut = True
        if not is_cut and not is_shared:
            ctx.why = f"reads {value.describe()} in {node.name!r} together with {first.describe()}"
            return None
        # In the original graph nothing is broadcast over a single token: an operand beside it goes
        # along with it, and the key has to say the same here.
        keys.append(_key(ctx, term, value, shape, -1 if share.tokens == 1 else row, is_cut=is_cut))
    return _Aligned(keys, shape, share)


def _is_number(ctx: Context, node: fx.Node) -> bool:
    return isinstance(ctx.vals.get(node), (float, torch.SymFloat))


def _broadcast(ctx: Context, operands: Sequence[Operand]) -> Shape | None:
    """The shape of what operands broadcast to; None when they do not, or one is not known."""
    shapes: list[Shape] = []
    for node, value in operands:
        if value.shape is not None:
            shapes.append(value.shape)
        elif not _is_number(ctx, node):
            return None
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Any] = [1] * rank
    for shape in shapes:
        for place, size in enumerate(shape, rank - len(shape)):
            if result[place] == 1:
                result[place] = size
            elif size != 1 and not ctx.dims.equal(size, result[place]):
                return None
    return tuple(result)


def _row_of(dims: Dims, cut: Sequence[Value], shape: Shape) -> int | None:
    """The result's dim of the rows, given operands that have some rows; None where these differ."""
    places = [len(shape) - len(value.shape or ()) for value in cut]
    row = max(places)
    if row == len(shape) or any(size != 1 for size in shape[:row]):
        return None
    for value, place in zip(cut, places, strict=True):
        if value.shape is None or not dims.equal(value.shape[row - place], shape[row]):
            return None  # it is repeated along the rows
    return row


def _is_same_for_rows(value: Value, shape: Shape, row: int) -> bool:
    """Whether a value has no dim for the rows, or one that is broadcast."""
    own = value.shape or ()
    return all(size == 1 for size in own[: max(row + 1 - (len(shape) - len(own)), 0)])


def _is_repeated(ctx: Context, value: Value, shape: Shape, row: int) -> bool:
    """Whether a full value's rows are all alike, and it has as many as this rank has."""
    period = ctx.store.repeated.get(value.term)
    if period is None or value.shape is None or _row_of(ctx.dims, [value], shape) is None:
        return False
    place = row - (len(shape) - len(value.shape))
    if place < 0 or not ctx.dims.equal(value.shape[place], shape[row]):
        return False
    inner = ctx.dims.product(value.shape[place + 1 :])
    if isinstance(inner, int) and isinstance(period, int):
        return inner % period == 0
    return ctx.dims.equal(inner, period)


def _of_one_sample(
    ctx: Context, value: Value, share: Share, shape: Shape, row: int
) -> Hashable | None:
    """The key of a value with a row for each sample, where one such row is beside all of our rows.

    None where the value is no such row, or the row of another sample than ours.
    """
    block, dims = ctx.store.blocks.get(value.term), ctx.dims
    rank = ctx.groups.rank(share.group)
    if block is None or rank is None or share.tokens or value.shape is None:
        return None
    base, samples, start, end, added = block
    if not isinstance(samples, int) or samples < 2 or added or share.tp % samples:
        return None
    if end != start + 1 or rank // (share.tp // samples) != start:
        return None
    own, inner = value.shape, shape[row + 1 :]
    if len(own) != len(inner) + 1 or own[0] != 1:
        return None
    length = dims.divide(dims.multiply(shape[row], share.tp), samples)
    spread = Value(Kind.FULL, base, (samples, 1, *own[1:]))
    return _key(ctx, base, spread, (samples, length, *inner))


def _key(
    ctx: Context, term: int, value: Value, shape: Shape, row: int = -1, *, is_cut: bool = False
) -> Hashable:
    key = broadcast_key(ctx.dims, term, value.shape or (), shape, row, is_cut=is_cut)
    # A broadcast operand has the term of one that is expanded first. A single number for all
    # elements needs no such term.
    return expanded(ctx, key) if isinstance(key, tuple) and key[2] else key


def expanded(ctx: Context, key: tuple[int, bool, Shape, bool]) -> int:
    """The term of what a broadcast makes of a value, which :func:`broadcast_key` spells."""
    term, goes, lengths, has_dims = key
    if goes:
        return ctx.store.term(("expanded", key))
    # Repeated from the outermost dim on, and then along inner ones: the two may be apart.
    period = ctx.dims.product(lengths[::2])
    found = ctx.store.term(("expanded", (term, False, (period,), has_dims)))
    ctx.store.repeated[found] = period
    if len(lengths) > 1:
        found = ctx.store.term(("expanded", (found, True, lengths[1:], True)))
        ctx.store.repeated[found] = ctx.dims.product(lengths)
    return found


def broadcast_key(
    dims: Dims, term: int, own: Shape, shape: Shape, row: int = -1, *, is_cut: bool = False
) -> Any:
    """Returns a term with the way in which it goes through the elements of a result.

    Args:
        dims: Sizes.
        term: The operand's.
        own: Its shape.
        shape: The result's.
        row: The result's dim along which this rank holds some rows; -1 where it holds all.
        is_cut: Whether the operand has rows there.

    Returns:
        The term itself where it goes along with every element. Else the term, whether it goes
        along (True) or stays (False) in the outermost stretch of dims, the number of elements of
        the inner stretches, where it does so in turn, and whether it has dims at all.
    """
    before = len(shape) - len(own)
    stretches: list[list[Any]] = []
    for place, size in enumerate(shape):
        goes = is_cut if place == row else place >= before and own[place - before] != 1
        if size == 1 and place != row:
            continue
        if stretches and stretches[-1][0] == goes:
            stretches[-1][1] = stretches[-1][1] * size
        else:
            stretches.append([goes, size])
    if not stretches or (len(stretches) == 1 and stretches[0][0]):
        # A tensor without dims takes no part in type promotion, one of a single element does.
        return term if own else (term, True, (), False)
    lengths = tuple([dims.plain(size) for _, size in stretches[1:]])
    return (term, stretches[0][0], lengths, bool(own))
