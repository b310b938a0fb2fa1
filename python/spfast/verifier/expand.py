"""The rule for expand: a value that is repeated, spelled as an operand that is broadcast."""

from __future__ import annotations

from typing import Any

from torch import fx

from spfast.verifier.context import Context
from spfast.verifier.elementwise import broadcast_key, expanded
from spfast.verifier.values import Kind, Shape, Value

__all__ = ["expand"]


def expand(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """aten.expand(self, size); one rank's rows may be expanded along any dim but their own."""
    sizes = args[1] if len(args) > 1 else kwargs.get("size")
    if not args or not isinstance(args[0], fx.Node) or not isinstance(sizes, (list, tuple)):
        return None
    value = ctx.read(args[0])
    if value.kind not in (Kind.FULL, Kind.SHARD) or value.shape is None:
        return None
    shape = _shape(ctx, value.shape, sizes)
    if shape is None:
        return None
    if value.kind is Kind.FULL:
        key = broadcast_key(ctx.dims, value.term, value.shape, shape)
        if key == value.term:
            return ctx.store.full(value.term, shape)
        return ctx.store.full(expanded(ctx, key), shape)
    row = len(shape) - len(value.shape)
    if any(size != 1 for size in shape[:row]) or not ctx.dims.equal(shape[row], value.shape[0]):
        ctx.why = f"repeats the rows of {value.describe()} in {args[0].name!r}"
        return None
    at = -1 if value.share.tokens == 1 else row
    key = broadcast_key(ctx.dims, value.term, value.shape, shape, at, is_cut=True)
    term = value.term if key == value.term else expanded(ctx, key)
    return ctx.store.shard(term, value.share, shape)


def _shape(ctx: Context, own: Shape, sizes: Any) -> Shape | None:
    """The shape that is asked for; None where it is no expansion of ``own``."""
    before = len(sizes) - len(own)
    if before < 0:
        return None
    shape: list[Any] = []
    for place, item in enumerate(sizes):
        asked = ctx.size(item)
        size = 1 if place < before else own[place - before]
        if asked is None or (asked == -1 and place < before):
            return None
        if asked != -1 and size != 1 and not ctx.dims.equal(asked, size):
            return None
        shape.append(size if asked == -1 else asked)
    return tuple(shape)
