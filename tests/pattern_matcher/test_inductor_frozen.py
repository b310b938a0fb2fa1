"""Frozen graphs, mkldnn and binary folding: graphs, counters and code with both matchers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pattern_matcher.test_inductor_passes import same
from torch import nn

needs_mkldnn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build has no mkldnn"
)
FROZEN = {"freezing": True}


class Then(nn.Module):
    """A layer, and what is done to its result."""

    def __init__(self, layer: nn.Module, then: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = layer
        self.then = then

    def forward(self, x: torch.Tensor, *more: torch.Tensor) -> Any:
        return self.then(self.layer(x), *more)


def _conv(bias: bool = True) -> nn.Module:
    return nn.Conv2d(4, 8, 3, bias=bias).eval()


IMAGE, LIKE_CONV = torch.rand(2, 4, 8, 8), torch.rand(2, 8, 6, 6)
ROWS, LIKE_LINEAR = torch.rand(4, 16), torch.rand(4, 8)
FUSED: dict[str, tuple[Callable[..., Any], bool]] = {
    "nothing": (lambda y: y, False),
    "relu": (torch.relu, False),
    "sigmoid": (torch.sigmoid, False),
    "gelu": (nn.functional.gelu, False),
    "hardtanh": (nn.functional.hardtanh, False),
    "leaky relu": (lambda y: nn.functional.leaky_relu(y, 0.1), False),
    "a sum": (torch.add, True),
    "a sum and relu": (lambda y, z: torch.relu(y + z), True),
    "a sum with a factor": (lambda y, z: torch.add(y, z, alpha=2), True),
    "read twice": (lambda y: (torch.relu(y), torch.neg(y)), False),
}


@needs_mkldnn
@pytest.mark.parametrize("then", FUSED)
@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_what_mkldnn_does_with_a_layer(kind: str, then: str) -> None:
    function, takes_more = FUSED[then]
    layer = _conv() if kind == "convolution" else nn.Linear(16, 8).eval()
    inputs = [IMAGE, LIKE_CONV] if kind == "convolution" else [ROWS, LIKE_LINEAR]
    counts = same(Then(layer, function), inputs if takes_more else inputs[:1], **FROZEN)
    if kind == "convolution":
        assert counts["mkldnn_conv_weight_pack_matcher_count"] == 1
        fused = counts.get("mkldnn_unary_fusion_matcher_count", 0)
        assert fused == (then in ("relu", "sigmoid", "gelu", "hardtanh", "leaky relu"))


class Scaled(nn.Module):
    """A convolution and a constant that is part of the model."""

    def __init__(self, layer: nn.Module, then: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.layer = layer
        self.then = then
        self.register_buffer("constant", torch.rand(shape) + 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.then(self.layer(x), self.constant)


FOLDED: dict[str, tuple[Callable[..., Any], tuple[int, ...], int]] = {
    "a factor of each channel": (torch.mul, (1, 8, 1, 1), 1),
    "a number": (torch.mul, (), 1),
    "a divisor": (torch.div, (8, 1, 1), 1),
    "a sum": (torch.add, (1, 8, 1, 1), 1),
    "a difference": (torch.sub, (1, 8, 1, 1), 1),
    "a factor of each column": (torch.mul, (6,), 0),
    "a difference the other way round": (lambda y, c: c - y, (1, 8, 1, 1), 0),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("then", FOLDED)
def test_constants_are_folded_into_a_convolution(then: str, bias: bool) -> None:
    function, shape, count = FOLDED[then]
    counts = same(Scaled(_conv(bias), function, *shape), [IMAGE], **FROZEN)
    assert counts.get("binary_folding", 0) == count
