"""Sizes: plain ints, or sympy expressions taken from SymInts, with the little algebra needed.

``tp * (n // tp)`` is ``n`` only when n is a multiple of tp. Whoever has established that (a
reduce_scatter whose row count is proved, guarded or assumed divisible) registers the pair, and from
then on both spellings are one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._sympy.functions import FloorDiv, Mod

from spfast.verifier.values import Shape

__all__ = ["SYMBOLIC_OPERATORS", "Dims"]

SYMBOLIC_OPERATORS: dict[Callable[..., Any], Callable[[Any, Any], Any]] = {
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: FloorDiv,
    operator.mod: Mod,
}


class Dims:
    """Converts and compares sizes, and remembers what is known of them."""

    def __init__(self) -> None:
        self._same: dict[Any, Any] = {}
        self._symints: dict[Any, torch.SymInt] = {}
        self._products: dict[Shape, Any] = {}

    def of(self, size: Any) -> Any:
        """Returns the int or expression of one size."""
        if isinstance(size, int):
            return size
        if isinstance(size, torch.SymInt):
            expression = size.node.expr
            if expression.is_Integer:
                return int(expression)
            self._symints.setdefault(expression, size)
            return self._same.get(expression, expression)
        return self.plain(size)

    def plain(self, expression: Any) -> Any:
        """Returns an expression in its registered spelling, as an int if it is one."""
        if isinstance(expression, int):
            return expression
        if expression.is_Integer:
            return int(expression)
        return self._same.get(expression, expression)

    def shape_of(self, val: Any) -> Shape | None:
        """Returns the shape of a fake tensor; None for anything else."""
        if not isinstance(val, torch.Tensor):
            return None
        size = val.shape
        for dim in size:
            if type(dim) is not int:
                return tuple(self.of(d) for d in size)
        return tuple(size)

    def product(self, shape: Shape) -> Any:
        """Returns the number of elements of a shape."""
        found = self._products.get(shape)
        if found is None:
            found = 1
            for dim in shape:
                found = found * dim
            found = self._products[shape] = self.plain(found)
        return found

    def divide(self, size: Any, parts: int) -> Any:
        """Returns size // parts."""
        if isinstance(size, int):
            return size // parts
        return self.plain(FloorDiv(size, parts))

    def multiply(self, size: Any, factor: Any) -> Any:
        """Returns size * factor in its registered spelling."""
        if isinstance(size, int) and isinstance(factor, int):
            return size * factor
        return self.plain(size * factor)

    def equal(self, left: Any, right: Any) -> bool:
        """Says whether two sizes are known to be the same."""
        if left == right:
            return True
        if isinstance(left, int) and isinstance(right, int):
            return False
        return bool(sympy.expand(left - right) == 0) or bool(self.plain(left) == self.plain(right))

    def is_divisible(self, size: Any, parts: int) -> bool:
        """Says whether size % parts == 0 is known, without adding a guard."""
        if isinstance(size, int):
            return size % parts == 0
        if Mod(size, parts) == 0:
            return True
        symint = self._symints.get(size)
        if symint is None:
            symint = self._rebuild(size)
        return symint is not None and bool(statically_known_true(symint % parts == 0))

    def _rebuild(self, size: Any) -> torch.SymInt | None:
        """A product of a number and one size that has been seen, such as 4*s27."""
        factor, rest = size.as_coeff_Mul()
        seen = self._symints.get(rest)
        return None if seen is None or not factor.is_Integer else int(factor) * seen

    def assume_divisible(self, size: Any, parts: int) -> None:
        """Makes parts * (size // parts) another spelling of size."""
        if isinstance(size, int):
            return
        rounded = parts * FloorDiv(size, parts)
        if rounded != size:
            self._same[rounded] = size
            self._products.clear()

    def same_shape(self, left: Shape, right: Shape) -> bool:
        """Says whether two shapes are known to be equal, dim by dim."""
        if left == right:
            return True
        return len(left) == len(right) and all(map(self.equal, left, right))

    def resolve(self, sizes: Sequence[Any], shape: Shape) -> Shape | None:
        """Returns what a view of ``shape`` to ``sizes`` (one may be -1) has as shape.

        None when the number of elements would differ, so that there is no such view.
        """
        new = tuple(sizes)
        total = self.product(shape)
        if -1 in new:
            at = new.index(-1)
            rest = self.product(new[:at] + new[at + 1 :])
            if isinstance(total, int) and isinstance(rest, int):
                if rest == 0 or total % rest:
                    return None
                missing: Any = total // rest
            else:
                quotient = sympy.cancel(sympy.sympify(total) / rest)
                missing = self.plain(quotient if quotient.is_integer else FloorDiv(total, rest))
            new = new[:at] + (missing,) + new[at + 1 :]
        return new if self.equal(self.product(new), total) else None


def strip_leading(lead: Shape) -> Shape:
    """Drops the 1s that a shape begins with: broadcasting counts from the right."""
    at = 0
    while at < len(lead) and lead[at] == 1:
        at += 1
    return lead[at:] if at else lead
