"""Where the choices of a random graph come from: a seed, or a hypothesis draw."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Chooser(Protocol):
    """A source of choices; the same source gives the same graph."""

    def integer(self, low: int, high: int) -> int:
        """An integer between ``low`` and ``high``, both included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of ``options``."""

    def chance(self, probability: float) -> bool:
        """True with about this probability."""


class SeededChooser:
    """Choices from a seed.

    Example:
        >>> SeededChooser(3).integer(0, 9) == SeededChooser(3).integer(0, 9)
        True
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """An integer between ``low`` and ``high``, both included."""
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of ``options``."""
        return options[self._random.randrange(len(options))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability


class DrawnChooser:
    """Choices drawn by hypothesis, which can then shrink a failing graph; it shrinks to "no".

    Args:
        draw: the function that ``hypothesis.strategies.composite`` passes.
    """

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """An integer between ``low`` and ``high``, both included."""
        from hypothesis import strategies

        return int(self._draw(strategies.integers(low, high)))

    def pick(self, options: Sequence[T]) -> T:
        """One of ``options``; shrinks towards the first."""
        return options[self.integer(0, len(options) - 1)]

    def chance(self, probability: float) -> bool:
        """True with about this probability; shrinks towards False."""
        return self.integer(1, 100) > round(100 * (1 - probability))
