"""How many rows each rank gets, and how many are added so that all ranks get equally many."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from spfast.reference.plan import New, Ref
from spfast.reference.sites import Sharing
from spfast.reference.values import size_key

__all__ = ["local_rows", "reckon"]


def local_rows(sharing: Sharing) -> Any:
    """The number of rows in each rank's share; it is rounded up where rows are added."""
    more = sharing.group.size - 1 if sharing.decision.padded else 0
    return (sharing.tokens + more) // sharing.group.size


def reckon(
    sharing: Sharing, value: Ref, call: Callable[..., New]
) -> tuple[int | New, int | New, int | New]:
    """The tokens, each rank's rows, and the rows that are added: numbers, or new nodes.

    Args:
        sharing: The tokens and the group.
        value: A value with a row for each token.
        call: Makes a node that calls an operator on arguments.
    """
    tokens, ranks = size_key(sharing.tokens), sharing.group.size
    if isinstance(tokens, int):
        rows: int = local_rows(sharing)
        return tokens, rows, ranks * rows - tokens
    size = call(torch.ops.aten.sym_size.int, value, 0)
    local = call(operator.floordiv, call(operator.add, size, ranks - 1), ranks)
    return size, local, call(operator.sub, call(operator.mul, local, ranks), size)
