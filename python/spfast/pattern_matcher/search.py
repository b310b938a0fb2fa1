"""An exact pattern and how it is matched."""

from __future__ import annotations

from typing import Any

import torch
import torch._inductor.pattern_matcher as stock

__all__ = ["Search"]


class Search:
    """The search pattern of one set of argument metadata.

    Attributes:
        pattern: None if nothing matches such arguments.
        symbolic: Whether the pattern holds symbols of the graph that it was traced for.
    """

    def __init__(self, pattern: stock.PatternExpr | None) -> None:
        self.pattern = pattern
        self.symbolic = False

    def accepts(self, node: torch.fx.Node) -> bool:
        """Whether the pattern matches at a node."""
        return self.match(node) is not None

    def match(self, node: torch.fx.Node) -> Any:
        """Torch's Match at a node, or None."""
        if self.pattern is None:
            return None
        return self.pattern.match(node) or None
