"""Which numbers of a graph are sizes, and which are data."""

from __future__ import annotations

from typing import Any

from torch.utils._sympy.symbol import SymT, symbol_is_type

__all__ = ["is_read"]

_DATA = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)


def is_read(number: Any) -> bool:
    """Says whether a number was read out of a tensor."""
    if isinstance(number, int):
        return False
    return any(symbol_is_type(symbol, _DATA) for symbol in number.free_symbols)
