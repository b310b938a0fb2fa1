"""Edits that fail one after the other, as the core can be told to for a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spfast import _core


def at_each_edit(act: Callable[[], object], picture: Callable[[], Any]) -> int:
    """Acts with a fault at the first edit, the second and so on, until none is left to fail.

    Returns:
        How many edits failed; each left what the picture shows as it was.
    """
    before, turn = picture(), 0
    while True:
        _core.break_after(turn)
        try:
            act()
            return turn
        except ValueError as error:
            assert "an edit fails, for a test" in str(error)
            assert picture() == before, turn
            turn += 1
        finally:
            _core.break_after(-1)
