"""Sizes: plain ints, or sympy expressions taken from SymInts, with the little algebra needed.

``n // tp`` is ``n / tp`` only when n is a multiple of tp. Whoever has established that (a
reduce_scatter whose row count is proved, guarded or assumed divisible) says so, and from then on
the floor is written as the fraction it is: ``tp * (n // tp)`` is ``n``, and ``n - 3 * (n // 4)``
is ``n / 4``.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from spfast.verifier.values import Shape

__all__ = ["SYMBOLIC_OPERATORS", "Dims", "strip_leading"]

SYMBOLIC_OPERATORS: dict[Callable[..., Any], Callable[[Any, Any], Any]] = {
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: FloorDiv,
    operator.mod: Mod,
}


class Dims:
    """Converts and compares sizes, and remembers what is known of their divisibility."""

    def __init__(self) -> None:
        # (size, parts) of a floor that is known to be exact -> the fraction that it is
        self._exact: dict[tuple[Any, Any], Any] = {}
        self._plain: dict[Any, Any] = {}
        self._symints: dict[Any, torch.SymInt] = {}
        self._products: dict[Shape, Any] = {}
        self._points: dict[Any, int] = {}
        self._sampled: dict[Any, int] = {}

    def of(self, size: Any) -> Any:
        """Returns the int or expression of one size."""
        if isinstance(size, int):
            return size
        if isinstance(size, torch.SymInt):
            expression = size.node.expr
            self._symints[expression] = size
            return self.plain(expression)
        return self.plain(size)

    def plain(self, expression: Any) -> Any:
        """Returns an expression in its one spelling, as an int if it is one."""
        if isinstance(expression, int):
            return expression
        found = self._plain.get(expression)
        if found is None:
            found = expression
            if self._exact and expression.has(FloorDiv):
                found = expression.replace(FloorDiv, self._quotient)
            found = sympy.expand(found)
            found = self._plain[expression] = int(found) if found.is_Integer else found
        return found

    def _quotient(self, base: Any, divisor: Any) -> Any:
        base = sympy.expand(base)
        found = self._exact.get((base, divisor))
        return FloorDiv(base, divisor) if found is None else found

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
        """Returns size * factor."""
        return self.plain(size * factor)

    def equal(self, left: Any, right: Any) -> bool:
        """Says whether two sizes are known to be the same."""
        if left == right:
            return True
        if isinstance(left, int) and isinstance(right, int):
            return False
        return bool(self.plain(left - right) == 0)

    def is_divisible(self, size: Any, parts: int) -> bool:
        """Says whether size % parts == 0 is known or taken to be, without adding a guard."""
        if isinstance(size, int):
            return size % parts == 0
        if Mod(size, parts) == 0 or FloorDiv(size, parts).args in self._exact:
            return True
        symint = self._rebuilt(size)
        if symint is None:
            return False
        return bool(statically_known_true(symint % parts == 0)) or _follows(symint, parts)

    def _rebuilt(self, size: Any) -> Any:
        """A size as a SymInt, which knows the guards; None where no SymInt is known for a part."""
        seen = self._symints.get(size)
        if seen is not None or isinstance(size, int):
            return size if seen is None else seen
        if size.is_Integer:
            return int(size)
        parts = [self._rebuilt(part) for part in size.args]
        if not parts or any(part is None for part in parts):
            return None
        if size.is_Add or size.is_Mul:
            return functools.reduce(operator.add if size.is_Add else operator.mul, parts)
        if isinstance(size, (FloorDiv, Mod)):
            return (operator.floordiv if isinstance(size, FloorDiv) else operator.mod)(*parts)
        return None

    def is_rounded_up(self, rows: Any, tokens: Any) -> bool:
        """Says whether ``rows`` may be ``tokens`` rounded up to some multiple."""
        if isinstance(rows, int) and isinstance(tokens, int):
            return rows >= tokens
        parts, floor = sympy.sympify(rows).as_coeff_Mul()
        if not isinstance(floor, FloorDiv) or floor.args[1] != parts:
            return False
        return self.equal(floor.args[0], self.plain(tokens + parts - 1))

    def assume_divisible(self, size: Any, parts: int) -> None:
        """Takes size // parts to be exact from here on."""
        if isinstance(size, int):
            return
        floor = FloorDiv(size, parts)
        if isinstance(floor, FloorDiv) and floor.args not in self._exact:
            self._exact[floor.args] = size / parts  # of (s//2)//2, which is s//4: (s//2)/2
            for known in (self._plain, self._products, self._points, self._sampled):
                known.clear()

    def same_shape(self, left: Shape, right: Shape) -> bool:
        """Says whether two shapes are known to be equal, dim by dim."""
        if left == right:
            return True
        return len(left) == len(right) and all(map(self.equal, left, right))

    def resolve(self, sizes: Sequence[Any], shape: Shape) -> Shape | None:
        """Returns the shape of a view of ``shape`` to ``sizes``, one of which may be -1.

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

    def sample(self, size: Any) -> int:
        """Returns a size at one point, where each symbol is a large number of its own.

        Two sizes that differ also differ at this point, as far as graphs compute sizes. Each symbol
        is a multiple of every number that some size is known to be divisible by.
        """
        if isinstance(size, int):
            return size
        expression = size.node.expr if isinstance(size, torch.SymInt) else size
        found = self._sampled.get(expression)
        if found is None:
            for symbol in sorted(expression.free_symbols, key=str):
                if symbol not in self._points:
                    step = math.lcm(*(int(parts) for _, parts in self._exact))
                    self._points[symbol] = step * (1009 + 2 * len(self._points))
            found = self._sampled[expression] = int(expression.xreplace(self._points))
        return found


def _follows(size: torch.SymInt, parts: int) -> bool:
    """Whether a size is a multiple because its symbols are. Torch does not conclude this itself."""
    steps: dict[Any, int] = {}
    for axiom in size.node.shape_env.get_axioms():
        for fact in sympy.And.make_args(axiom):
            if not isinstance(fact, sympy.Eq) or not isinstance(fact.lhs, (Mod, PythonMod)):
                continue
            factor, symbol = fact.lhs.args[0].as_coeff_Mul()
            step = fact.lhs.args[1]
            if fact.rhs == 0 and symbol.is_Symbol and factor.is_Integer and step.is_Integer:
                known = int(step) // math.gcd(int(factor), int(step))
                steps[symbol] = math.lcm(steps.get(symbol, 1), known)
    counted = {symbol: step * sympy.Dummy(integer=True) for symbol, step in steps.items()}
    share = sympy.expand(size.node.expr.xreplace(counted) / parts)
    return all(term.is_integer for term in sympy.Add.make_args(share))


def strip_leading(lead: Shape) -> Shape:
    """Drops the 1s that a shape begins with: broadcasting counts from the right."""
    at = 0
    while at < len(lead) and lead[at] == 1:
        at += 1
    return lead[at:] if at else lead
