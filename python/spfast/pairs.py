"""What a run says of the pairs of a graph: fused, or left and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["AsyncTP", "FusedPair", "LeftPair"]


@dataclass(frozen=True)
class FusedPair:
    """A collective that one operator now does together with matrix products.

    Attributes:
        node: The fused operator, by its name in the graph.
        collective: The collective, by the name that it had.
        products: The matrix products, by the names that they had.
        operator: The fused operator's name, such as ``"fused_matmul_reduce_scatter"``.
    """

    node: str
    collective: str
    products: tuple[str, ...]
    operator: str

    def __str__(self) -> str:
        return f"{self.collective} with {', '.join(self.products)} as {self.operator}"


@dataclass(frozen=True)
class LeftPair:
    """A reduce_scatter or an all_gather that was left exactly as it was.

    Attributes:
        node: Its name in the graph.
        reason: Why, in one sentence.
    """

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


@dataclass(frozen=True)
class AsyncTP:
    """What was done about the collectives that could hide behind matrix products.

    Attributes:
        fused: The fused pairs, in graph order.
        left: The collectives that stayed, in graph order. The last gather before an output is
            always among them.
        seconds: How long fusing took.

    Example:
        >>> print(AsyncTP(left=(LeftPair("all_gather", "no matrix product reads it"),)))
        0 pairs fused, 1 left
          left all_gather: no matrix product reads it
    """

    fused: tuple[FusedPair, ...] = ()
    left: tuple[LeftPair, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def of_graphs(cls, parts: Iterable[tuple[str, AsyncTP]]) -> AsyncTP:
        """Joins what was done to several graphs; names of a called graph come after its path."""
        fused: list[FusedPair] = []
        left: list[LeftPair] = []
        seconds = 0.0
        for path, each in parts:
            seconds += each.seconds
            if not path:
                fused += each.fused
                left += each.left
                continue
            at = f"{path}."
            fused += [
                replace(
                    pair,
                    node=at + pair.node,
                    collective=at + pair.collective,
                    products=tuple(at + name for name in pair.products),
                )
                for pair in each.fused
            ]
            left += [replace(pair, node=at + pair.node) for pair in each.left]
        return cls(tuple(fused), tuple(left), seconds)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {
            "fused": [{**asdict(pair), "products": list(pair.products)} for pair in self.fused],
            "left": [asdict(pair) for pair in self.left],
            "seconds": self.seconds,
        }

    def summary(self) -> str:
        """One line: how many, and the commonest reasons of those that were left."""
        reasons = Counter(pair.reason for pair in self.left)
        left = "".join(f"; {count} left: {why}" for why, count in reasons.most_common(3))
        return f"{len(self.fused)} of {len(self.fused) + len(self.left)} pairs fused{left}"

    def __int__(self) -> int:
        return len(self.fused)

    def __str__(self) -> str:
        lines = [f"{len(self.fused)} pairs fused, {len(self.left)} left"]
        lines += [f"  fused {pair}" for pair in self.fused]
        lines += [f"  left {pair}" for pair in self.left]
        return "\n".join(lines)
