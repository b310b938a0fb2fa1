"""The verdict: what was proved, what was not and why, and what had to be taken on trust."""

from __future__ import annotations

from dataclasses import dataclass

from spfast.errors import VerificationError
from spfast.trust import Assumption

__all__ = ["Problem", "Verification"]


@dataclass(frozen=True)
class Problem:
    """One thing that could not be proved.

    Attributes:
        node: Name of the node of the rewritten graph where it shows.
        reason: What is wrong there.

    Example:
        >>> str(Problem("mm_2", "needs a full value"))
        'mm_2: needs a full value'
    """

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


@dataclass(frozen=True)
class Verification:
    """The result of :func:`spfast.verifier.verify`.

    Attributes:
        problems: Everything that could not be proved, in graph order; empty when all was.
        assumptions: The values that a graph cannot prove to be the same on every rank and that
            were taken to be: norm weights, scales, residuals that come from outside. Each by the
            name that it had in the original graph, in graph order.
        sharded: How many nodes of the rewritten graph hold one rank's rows only.
        nodes: How many nodes were looked at in the rewritten graph.

    Example:
        >>> Verification().ok
        True
    """

    problems: tuple[Problem, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    sharded: int = 0
    nodes: int = 0

    @property
    def ok(self) -> bool:
        """Whether the rewritten graph is proved to compute what the original did."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def raise_if_failed(self) -> None:
        """Does nothing when everything was proved.

        Raises:
            VerificationError: Something was not; the message names each node and reason.
        """
        if self.problems:
            listed = "; ".join(str(problem) for problem in self.problems)
            raise VerificationError(
                f"the rewritten graph is not proved equal to the original: {listed}"
            )

    def __str__(self) -> str:
        if self.ok:
            return f"proved: {self.nodes} nodes, {self.sharded} of them hold one rank's rows"
        return "\n".join(["not proved:", *(f"  {problem}" for problem in self.problems)])
