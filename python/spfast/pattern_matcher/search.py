"""An exact pattern together with its route."""

from __future__ import annotations

from typing import Any

import torch
import torch._inductor.pattern_matcher as stock

from spfast.pattern_matcher.lowering import route_of

__all__ = ["Search"]


class Search:
    """The search pattern of one set of argument metadata.

    Attributes:
        pattern: None if nothing matches such arguments.
        failure: Why tracing failed, for torch's log; None if it did not.
        symbolic: Whether the pattern holds symbols of the graph that it was traced for.
    """

    def __init__(self, pattern: stock.PatternExpr | None, failure: str | None = None) -> None:
        self.pattern = pattern
        self.failure = failure
        self._route = None if pattern is None else route_of(pattern)
        self.symbolic = self._route is not None and self._route.symbolic

    def accepts(self, node: torch.fx.Node) -> bool:
        """Whether the pattern matches at a node."""
        return self._route is not None and self._route.accepts(node)

    def match(self, node: torch.fx.Node) -> Any:
        """Torch's Match at a node, or None."""
        return None if self._route is None else self._route.match(node)
