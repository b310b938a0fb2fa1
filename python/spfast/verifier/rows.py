"""Rules for operators that treat every token's row alone.

Such an operator may work on one rank's rows exactly as on all rows: it yields the same rows of the
full result. Operands that are the same for every row (a weight, a scale) stay whole. All other
operands must hold the same rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.dims import strip_leading
from spfast.verifier.values import Kind, Shape, Share, Value

__all__ = ["Joined", "Operand", "chunk", "join", "row_operator"]

Operand = tuple[fx.Node, Value]


@dataclass
class Joined:
    """Operands that line up row by row.

    Attributes:
        items: For each operand: its term, what it holds, and whether it has rows of its own.
        share: The share, where the rows are one rank's chunk.
        block: Where the rows were cut out of a full value: how many rows that value has, the first
            and the end of those cut out, and how many are its own where some were added.
    """

    items: list[tuple[int, Shape | None, bool]]
    share: Share | None = None
    block: tuple[Any, Any, Any, Any] | None = None

    def make(self, ctx: Context, term: int, shape: Shape) -> Value:
        """Returns the value of a result with these rows."""
        if self.share is not None:
            return ctx.store.shard(term, self.share, shape)
        if self.block is not None:
            return ctx.store.block(term, *self.block, shape)
        return ctx.store.full(term, shape)


def _lead(value: Value) -> Shape:
    return () if not value.shape else strip_leading(value.shape[:-1])


def join(ctx: Context, operands: Sequence[Operand]) -> Joined | None:
    """Lines operands up row by row; None (with ``ctx.why``) when they do not."""
    for _, value in operands:
        if value.kind is Kind.SHARD:
            return _join_shards(ctx, operands, value)
    for node, value in operands:
        if value.kind is not Kind.FULL:
            ctx.why = f"reads {value.describe()} in {node.name!r}"
            return None
    return _join_full(ctx, operands)


def _join_full(ctx: Context, operands: Sequence[Operand]) -> Joined | None:
    leads = [_lead(value) for _, value in operands]
    widest = max(leads, key=len)
    cut = [_is_block(ctx, value) for _, value in operands]
    items: list[tuple[int, Shape | None, bool]] = []
    blocks = set()
    for (_, value), lead, is_cut in zip(operands, leads, cut, strict=True):
        # A single row is not recognised by its dims. It counts as a row where it was cut out.
        has_rows = lead == widest and (bool(widest) or is_cut or not any(cut))
        if not has_rows and lead:
            return None
        items.append((value.term, value.shape, has_rows))
        if has_rows:
            blocks.add(ctx.store.blocks[value.term][1:] if is_cut else None)
    block = blocks.pop() if len(blocks) == 1 else None
    # The dims have to hold the rows that were cut out. A view may have made one row of several.
    if block is not None and ctx.dims.equal(
        ctx.dims.product(widest), ctx.dims.plain(block[2] - block[1])
    ):
        bases = ctx.store.blocks
        items = [(bases[t][0] if rows else t, shape, rows) for t, shape, rows in items]
        return Joined(items, block=block)
    return Joined(items)


def _is_block(ctx: Context, value: Value) -> bool:
    return value.term in ctx.store.blocks


def _join_shards(ctx: Context, operands: Sequence[Operand], first: Value) -> Joined | None:
    share, lead = first.share, _lead(first)
    items: list[tuple[int, Shape | None, bool]] = []
    for node, value in operands:
        if value.shape is not None and value.kind is Kind.SHARD and len(value.shape) < 2:
            ctx.why = f"needs whole rows, but {node.name!r} is {value.describe()}"
            return None
        if value.kind is Kind.SHARD:
            if value.share != share:
                ctx.why = unlike(share, value.share)
                return None
            if not ctx.dims.same_shape(_lead(value), lead):
                ctx.why = f"mixes {first.describe()} with {value.describe()} in {node.name!r}"
                return None
            items.append((value.term, value.shape, True))
        elif value.kind is not Kind.FULL:
            ctx.why = f"reads {value.describe()} in {node.name!r}"
            return None
        elif _is_block(ctx, value) and ctx.dims.same_shape(_lead(value), lead):
            base = chunk(ctx, node, value, share)
            if base is None:
                return None
            ctx.meet(node, base, share.group, has_rows=True)
            items.append((base, value.shape, True))
        elif value.shape is not None and not _lead(value):
            ctx.meet(node, value.term, share.group)
            items.append((value.term, value.shape, False))
        else:
            ctx.why = f"reads {value.describe()} in {node.name!r} together with {first.describe()}"
            return None
    return Joined(items, share)


def unlike(one: Share, other: Share) -> str:
    """Says how two shares differ."""
    if one.group != other.group or one.tp != other.tp:
        return f"mixes rows of group {one.group!r} with rows of group {other.group!r}"
    was, now = one.tokens or "all", other.tokens or "all"
    return f"mixes rows of which {was} are tokens with rows of which {now} are"


def chunk(ctx: Context, node: fx.Node, value: Value, share: Share) -> int | None:
    """Returns the term that ``value`` is our rank's chunk of; None when it is other rows."""
    base, rows, start, end, tokens = ctx.store.blocks[value.term]
    group, tp, dims = share.group, share.tp, ctx.dims
    if tokens != share.tokens or (share.is_padded and rows != share.rows):
        ctx.why = unlike(share, Share(group, tp, tokens, rows))
        return None
    local = dims.divide(rows, tp)
    rank = ctx.groups.rank(group)
    if rank is None:
        for candidate in range(tp):
            if dims.equal(dims.multiply(local, candidate), start):
                rank = candidate
                ctx.groups.learn_rank(group, rank)
                break
    if rank is not None:
        first, last = dims.multiply(local, rank), dims.multiply(local, rank + 1)
        if dims.equal(first, start) and dims.equal(last, end):
            return base
        wanted = f"rank {rank} of group {group!r} needs rows {first}:{last}"
    else:
        wanted = f"those are no rank's rows of group {group!r} ({tp} ranks)"
    ctx.why = f"reads rows {start}:{end} of {rows} in {node.name!r}, but {wanted}"
    return None


def row_operator(
    ctx: Context,
    tag: Hashable,
    rows: Sequence[Operand],
    shared: Sequence[fx.Node | None],
    literals: Hashable,
    outputs: Sequence[str | tuple[Any]],
) -> list[Value] | None:
    """An operator that reads whole rows, such as a norm or a reduction over the last dim.

    Args:
        ctx: The walk.
        tag: What the operator is compared by.
        rows: Operands with one row a token, all of one width.
        shared: Operands that are the same for every row.
        literals: Everything else that it is compared by.
        outputs: For each result: "row" (as wide as the rows), "one" (one number, the dim kept),
            "none" (one number, the dim gone), or its width in a tuple.

    Returns:
        The results, or None when the operands do not line up.
    """
    joined = join(ctx, rows)
    if joined is None:
        return None
    shapes = [shape for _, shape, _ in joined.items]
    first = shapes[0]
    if not all(has_rows for _, _, has_rows in joined.items) or not first:
        return None
    if any(not shape or not ctx.dims.equal(shape[-1], first[-1]) for shape in shapes):
        return None
    keys: list[Hashable] = []
    for operand in shared:
        if operand is None:
            keys.append(None)
            continue
        value = ctx.read(operand)
        if value.kind is not Kind.FULL or _lead(value):
            if joined.share is not None:
                ctx.why = f"needs one row for every token in {operand.name!r}: {value.describe()}"
            return None
        if joined.share is not None:
            ctx.meet(operand, value.term, joined.share.group)
        keys.append((value.term, value.shape[-1] if value.shape else None))
    terms = tuple([(term, first[-1]) for term, _, _ in joined.items])
    base = ctx.store.term(("rows", tag, terms, tuple(keys), literals))
    results = []
    longest = max((shape for shape in shapes if shape), key=len)
    for index, output in enumerate(outputs):
        if isinstance(output, str):
            shape = {"row": longest, "one": (*longest[:-1], 1), "none": longest[:-1]}[output]
        else:
            shape = (*longest[:-1], *output)
        results.append(joined.make(ctx, ctx.store.term(("result", base, index)), shape))
    return results
