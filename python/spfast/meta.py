"""Makes ``meta["val"]`` of the nodes that a rewrite creates or resizes.

Each value is what FakeTensorMode would compute for its node: same shape (symbolic sizes as the same
expressions), stride, dtype and device, on a storage of its own. No operator is run for it: a
sharded value is known from the full one and the ranks' share of its rows.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["MissingValue", "TokenShare", "make_values"]

# As in MetaSpec of cpp/rewrite/plan.h.
LOCAL, GATHERED, FLAT, SAME, LOCAL_SIZE, SCALED, DIM_SIZE = range(7)

Size = Any  # int | torch.SymInt
Spec = tuple[int, fx.Node, int, int]


class MissingValue(Exception):
    """A node whose value must be known has none.

    Attributes:
        node: The node.
    """

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node.name)
        self.node = node


@dataclass(frozen=True)
class TokenShare:
    """How the tokens of a class of sites are shared.

    Attributes:
        tokens: Their number.
        tp_size: The number of ranks.
        local: Each rank's share.
    """

    tokens: Size
    tp_size: int
    local: Size

    @staticmethod
    def of(tokens: Size, tp_size: int) -> TokenShare:
        """The share of each of ``tp_size`` ranks in ``tokens``."""
        return TokenShare(tokens, tp_size, tokens // tp_size)


def make_values(
    created: Sequence[Spec], resized: Sequence[Spec], shares: Sequence[TokenShare | None]
) -> tuple[list[Any], list[Any]]:
    """Makes the values of a plan; nothing in the graph is changed.

    Args:
        created: For each created node (form, node that it is like, class, factor).
        resized: The same for each resized node; the node is the one that is resized.
        shares: The share of each class; None for a class that was refused.

    Returns:
        The values of the created nodes and those of the resized ones.

    Raises:
        MissingValue: A node that a spec refers to has no value.
    """
    maker = _Maker(shares)
    return [maker.make(spec) for spec in created], [maker.resize(spec) for spec in resized]


class _Maker:
    def __init__(self, shares: Sequence[TokenShare | None]) -> None:
        self._shares = shares
        self._resized: dict[fx.Node, Any] = {}

    def resize(self, spec: Spec) -> Any:
        node = spec[1]
        source = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and source in self._resized:
            # A part of a tuple is the same value as the tuple holds.
            return self._resized[source][node.args[1]]
        value = self.make(spec)
        if isinstance(value, (tuple, list)):
            self._resized[node] = value
        return value

    def make(self, spec: Spec) -> Any:
        form, node, share_index, factor = spec
        share = self._shares[share_index]
        assert share is not None
        if form == LOCAL_SIZE:
            return share.local
        if form == SCALED:
            return share.local * factor
        full = node.meta.get("val")
        if full is None:
            raise MissingValue(node)
        if form == DIM_SIZE:
            return full.shape[factor]
        if form == LOCAL:
            return self._rows(node, full, share.local)
        if form == GATHERED:
            return self._rows(node, full, share.local * share.tp_size)
        if form == FLAT:
            return self._rows(node, full, share.tokens)
        return _fresh(full, tuple(full.shape))

    def _rows(self, node: fx.Node, full: Any, rows: Size) -> Any:
        if isinstance(full, torch.Tensor) and full.dim() > 0:
            return _fresh(full, (rows, full.shape[-1]))
        if isinstance(full, (tuple, list)):
            parts = (None if part is None else self._rows(node, part, rows) for part in full)
            return type(full)(parts)
        raise MissingValue(node)


def _fresh(like: torch.Tensor, shape: tuple[Size, ...]) -> torch.Tensor:
    meta = torch.empty(shape, dtype=like.dtype, device="meta")
    if isinstance(like, FakeTensor):
        return FakeTensor(like.fake_mode, meta, like.fake_device)
    return meta if like.is_meta else torch.empty(shape, dtype=like.dtype, device=like.device)
