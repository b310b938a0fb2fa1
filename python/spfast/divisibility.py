"""Whether every rank gets an equal share of a symbolic number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from spfast.config import Divisibility

__all__ = ["Decision", "decide"]


@dataclass(frozen=True)
class Decision:
    """What is to be done about one number of tokens.

    Attributes:
        refused: Why its sites stay; empty where they are rewritten.
        guarded: Whether the rewrite is right only under a guard, which :meth:`commit` adds.
    """

    tokens: Any
    tp_size: int
    refused: str = ""
    guarded: bool = False

    def commit(self) -> None:
        """Adds the guard, so that a number that is not divisible compiles anew."""
        if self.guarded:
            from torch.fx.experimental.symbolic_shapes import guard_bool

            guard_bool(self.tokens % self.tp_size == 0)


def decide(tokens: int | torch.SymInt, tp_size: int, divisibility: Divisibility) -> Decision:
    """Decides without any effect on the graph or its ShapeEnv.

    Args:
        tokens: The number of tokens; an int needs no decision, for the planner knows it.
        tp_size: The ranks that share them.
        divisibility: ``"guard"``, ``"prove"`` or ``"assume"``.

    Example:
        >>> decide(4096, 8, "guard").refused
        ''
    """
    if isinstance(tokens, int) or divisibility == "assume":
        return Decision(tokens, tp_size)
    # Loaded with the first symbolic size; static graphs need neither it nor sympy.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if statically_known_true(tokens % tp_size == 0):
        return Decision(tokens, tp_size)
    expression = str(tokens.node.expr)
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
            f'divisible by tp_size {tp_size}; pass divisibility="assume" if they are',
        )
    if getattr(tokens.node.shape_env, "frozen", False):
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
        )
    return Decision(tokens, tp_size, guarded=True)
