"""The pass class."""

from __future__ import annotations

import torch
import torch._inductor.pattern_matcher as stock

from spfast.pattern_matcher.engine import run
from spfast.pattern_matcher.routes import describe

__all__ = ["PatternMatcherPass"]


class PatternMatcherPass(stock.PatternMatcherPass):
    """A registry of patterns that is applied to graphs: torch's class with another `apply`.

    Args:
        pass_name: A name for logs and provenance.
        subsystem: What torch's compiler bisector calls the pass.
    """

    def apply(self, gm: torch.fx.GraphModule | torch.fx.Graph) -> int:
        """Replaces every match in a graph.

        Candidates are visited from the last node to the first, patterns in the order in which they
        were registered; a candidate sees what earlier ones were replaced by.

        Args:
            gm: A GraphModule, or the graph of one.

        Returns:
            The number of matches replaced.

        Raises:
            RuntimeError: `gm` is neither.
            Whatever users' functions raise; the graph is then as before the match at hand.
        """
        return run(self, gm)

    def describe(self) -> str:
        """Which route each pattern takes and why, with counts, one line a pattern."""
        return describe(self)
