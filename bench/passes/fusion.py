"""What a fusion pass is: rules to register, and the layer in whose graph they apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch._subclasses.fake_tensor import FakeTensorMode

from . import ops
from .stack import LayerFunction, stack

Shape = tuple[int, ...]
HIDDEN, INTER, TP, GROUP_SIZE = 4096, 14336, 8, 128
EPSILONS = (1e-5, 1e-6)  # vLLM registers each rule once for each
TP_GROUP = "tp:0"


@dataclass(frozen=True)
class Rule:
    """One call of register_replacement.

    Attributes:
        search: the pattern function.
        replace: the replacement function.
        inputs: makes the example inputs; called under a FakeTensorMode.
        extra_check: as users give it, or None.
    """

    search: Callable[..., Any]
    replace: Callable[..., Any]
    inputs: Callable[[], Sequence[Any]]
    extra_check: Callable[[Any], bool] | None = None


@dataclass(frozen=True)
class Fusion:
    """One pass with the graphs that it is for.

    Attributes:
        name: as in the tables.
        rules: makes the rules for so many layers.
        layer: one layer's function: (rows, stream, *weights) -> stream.
        weights: shapes and dtypes of a layer's own inputs.
        sites: matches in one layer.
    """

    name: str
    rules: Callable[[int], Iterable[Rule]]
    layer: LayerFunction
    weights: tuple[tuple[Shape, torch.dtype], ...]
    sites: int = 1

    def register(self, pm: Any, layers: int) -> Any:
        """A PatternMatcherPass of the matcher module ``pm`` that holds the rules."""
        matcher = pm.PatternMatcherPass(pass_name=self.name.replace(" ", "_"))
        with FakeTensorMode():
            for rule in self.rules(layers):
                options = {} if rule.extra_check is None else {"extra_check": rule.extra_check}
                pm.register_replacement(
                    rule.search, rule.replace, rule.inputs(), pm.fwd_only, matcher, **options
                )
        return matcher

    def build(self, layers: int, tokens: int | None) -> fx.GraphModule:
        """A fresh graph of so many layers; None: the token count is symbolic."""
        ops.declare()
        return stack(self.layer, layers, tokens, HIDDEN, self.weights)


def empty(*shape: int, dtype: torch.dtype = ops.BF16) -> torch.Tensor:
    """An example input."""
    return torch.empty(*shape, dtype=dtype)
