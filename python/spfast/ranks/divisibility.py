"""Whether there are enough tokens, and how every rank gets an equal share of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from spfast.applicability import minimum_tokens
from spfast.config import Divisibility, SequenceParallelConfig

__all__ = ["Decision", "decide", "too_few"]


@dataclass(frozen=True)
class Decision:
    """What is to be done about one number of tokens.

    Attributes:
        refused: Why its sites stay; empty where they are rewritten.
        guarded: Whether it holds only under a guard, which :meth:`commit` adds.
        padded: Whether rows are added for it.
        odd: Whether only the example speaks against sharing. Another number is then worth another
            graph, and the graph that is left must not be used for it.
        apart: Whether the example is odd because each rank would have one row at most.
    """

    tokens: Any
    tp_size: int
    refused: str = ""
    guarded: bool = False
    padded: bool = False
    odd: bool = False
    apart: bool = False

    def commit(self) -> None:
        """Adds the guard that the example fulfils: numbers of the other kind compile anew."""
        if self.guarded:
            from torch.fx.experimental.symbolic_shapes import guard_bool

            if self.apart:
                guard_bool(self.tokens < 2 * self.tp_size)
            else:
                guard_bool(self.tokens % self.tp_size == 0)


def too_few(tokens: int | torch.SymInt, config: SequenceParallelConfig) -> str:
    """Why a number of tokens is not worth it; "" where it is not known to be less than was given.

    Args:
        tokens: The number of tokens; of a symbolic one its range counts.
        config: Only a ``min_token_num`` that it gives counts, not one that could be derived.

    Example:
        >>> too_few(512, SequenceParallelConfig(min_token_num=1024))
        '512 tokens are fewer than 1024 (min_token_num=1024)'
        >>> too_few(512, SequenceParallelConfig())
        ''
    """
    if config.min_token_num is None:
        return ""
    minimum, reason = minimum_tokens(config)
    assert minimum is not None
    if isinstance(tokens, int):
        fewer = tokens < minimum
    else:
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        fewer = statically_known_true(tokens < minimum)
    return f"{tokens} tokens are fewer than {minimum} ({reason})" if fewer else ""


def decide(tokens: int | torch.SymInt, tp_size: int, divisibility: Divisibility) -> Decision:
    """Decides without any effect on the graph or its ShapeEnv.

    Args:
        tokens: The number of tokens; an int that is not divisible the planner knows to refuse.
        tp_size: The ranks that share them.
        divisibility: ``"guard"``, ``"prove"``, ``"assume"`` or ``"pad"``.

    Example:
        >>> decide(4096, 8, "guard").refused
        ''
        >>> decide(4095, 8, "pad").padded
        True
    """
    if isinstance(tokens, int) or divisibility == "assume":
        odd = isinstance(tokens, int) and tokens % tp_size != 0
        return Decision(tokens, tp_size, padded=odd and divisibility == "pad")
    # Loaded with the first symbolic size; static graphs need neither it nor sympy.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if statically_known_true(tokens % tp_size == 0):
        return Decision(tokens, tp_size)
    expression = str(tokens.node.expr)
    if divisibility in ("prove", "pad") or not tokens.node.has_hint() or _is_frozen(tokens):
        # A guard that follows from others costs nothing, and torch uses it in later reasoning. The
        # longer proof, which looks at all that is known, is for cases where no guard is allowed.
        if _is_known_multiple(tokens, tp_size):
            return Decision(tokens, tp_size)
    if divisibility == "pad":
        return _apart(tokens, tp_size) or Decision(tokens, tp_size, padded=True)
    if divisibility == "prove":
        return Decision(
            tokens,
            tp_size,
            f"{expression} tokens are not proved to be divisible by tp_size {tp_size} "
            f'(divisibility="prove")',
        )
    if not tokens.node.has_hint():
        return Decision(
            tokens,
            tp_size,
            f"{expression} tokens have no example value, so no guard can say that they are "
            f'divisible by tp_size {tp_size}; pass divisibility="assume" if they are, or "pad"',
        )
    if _is_frozen(tokens):
        return Decision(
            tokens,
            tp_size,
            f"{expression} tokens need a guard to be divisible by tp_size {tp_size}, and the "
            f"ShapeEnv takes none any more",
        )
    hint = int(tokens.node.hint)
    if hint % tp_size:
        return Decision(
            tokens,
            tp_size,
            f"{expression} tokens are {hint} in the example, which is not divisible by "
            f"tp_size {tp_size}",
            odd=True,
        )
    return _apart(tokens, tp_size) or Decision(tokens, tp_size, guarded=True)


def _apart(tokens: torch.SymInt, tp_size: int) -> Decision | None:
    """The decision where each rank has one row at most in the example, else None.

    torch takes no 1 for any number, so that graph would be for such numbers alone. Of two ranks, or
    of multiples, there is only one such, and who marked it as dynamic would be told off for it.
    """
    if not tokens.node.has_hint() or _is_frozen(tokens) or tokens.node.hint > tp_size:
        return None
    return Decision(
        tokens,
        tp_size,
        f"{tokens.node.expr} tokens are {tokens.node.hint} in the example, which is one row or "
        f"none for each of {tp_size} ranks, and torch compiles for such a number apart",
        odd=True,
        apart=True,
    )


def _is_frozen(tokens: torch.SymInt) -> bool:
    return bool(getattr(tokens.node.shape_env, "frozen", False))


def _is_known_multiple(tokens: torch.SymInt, tp_size: int) -> bool:
    """Whether the number is a multiple because others are. Torch does not conclude this itself.

    With ``s % 8 == 0`` among the guards and runtime asserts, ``s``, ``2 * s`` and ``s // 2`` are
    multiples of 4. A view to ``[-1, 4, f]`` tells ``f * s % (4 * f) == 0``.
    """
    import sympy
    from torch.utils._sympy.functions import Mod, PythonMod

    known: dict[Any, int] = {}
    numbers: dict[Any, Any] = {}
    for axiom in tokens.node.shape_env.get_axioms():
        for fact in sympy.And.make_args(axiom):
            if not isinstance(fact, sympy.Eq) or not fact.rhs.is_Integer:
                continue
            if not isinstance(fact.lhs, (Mod, PythonMod)):
                numbers[fact.lhs] = fact.rhs
            elif fact.rhs == 0 and fact.lhs.args[1].is_Integer:
                factor, base = fact.lhs.args[0].as_coeff_Mul()
                divisor = int(fact.lhs.args[1])
                if factor.is_Integer:
                    divisor //= math.gcd(int(factor), divisor)
                    known[base] = math.lcm(known.get(base, 1), divisor)
    counted = {base: n * sympy.Dummy(integer=True) for base, n in known.items()}
    expression = tokens.node.expr.xreplace(numbers).xreplace(counted)
    terms = sympy.Add.make_args(sympy.expand(expression))
    parts = [term.as_coeff_Mul() for term in terms]
    return all(
        factor.is_Integer and factor % tp_size == 0 and rest.is_integer for factor, rest in parts
    )
