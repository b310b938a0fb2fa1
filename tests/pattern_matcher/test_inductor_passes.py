"""Inductor's own passes, run by torch's matcher and by ours: graphs, counters, generated code.

Each case is a function that one of the passes rewrites. It is compiled up to the code that would
be built, once with each matcher, and the pass must have found what it is about.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pattern_matcher.describe import describe, difference
from torch._dynamo.utils import counters
from torch._inductor import compile_fx
from torch._inductor import config as inductor_config
from torch._inductor.graph import GraphLowering

from spfast.integrations import inductor


class _Enough(Exception):  # noqa: N818 - ends a compile once there is code
    """Nothing is built."""


@dataclass
class Seen:
    """What a compile had by the time that its code was written."""

    graphs: list[Any] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def compiled(function: Callable[..., Any], inputs: list[Any], how: Any, **settings: Any) -> Seen:
    """Compiles a function for inference up to its code."""
    seen = Seen()
    passes = compile_fx._recursive_post_grad_passes

    def post_grad(gm: Any, *args: Any, **kwargs: Any) -> None:
        passes(gm, *args, **kwargs)
        seen.graphs.append(describe(gm.graph))

    def code(self: Any) -> Any:
        seen.code.append(_plain(self.codegen()[0].value))
        raise _Enough

    torch._dynamo.reset()
    counters.clear()
    options = {"fx_graph_cache": False, **settings}
    with pytest.MonkeyPatch.context() as patch, how(), inductor_config.patch(options):
        patch.setattr(compile_fx, "_recursive_post_grad_passes", post_grad)
        patch.setattr(GraphLowering, "compile_to_module", code)
        torch.manual_seed(0)
        with torch.no_grad(), pytest.raises(Exception) as error:  # noqa: PT011 - Dynamo wraps it
            torch.compile(function, fullgraph=True)(*inputs)
    assert seen.code, error.value
    seen.counts = {k: n for k, n in counters["inductor"].items() if "time" not in k}
    return seen


def _plain(code: str) -> str:
    """Code without the names of kernels' files, the process's folders and addresses."""
    return re.sub(r"# (AOT|Topologically|Source|Graph fragment|device\().*|/\S+", "", code)


def same(function: Callable[..., Any], inputs: list[Any], **settings: Any) -> dict[str, int]:
    """Compiles with both matchers, compares, and returns the counters."""
    theirs = compiled(function, inputs, contextlib.nullcontext, **settings)
    ours = compiled(function, inputs, inductor.patched, **settings)
    assert len(ours.graphs) == len(theirs.graphs) >= 1
    for left, right in zip(ours.graphs, theirs.graphs, strict=True):
        assert difference(left, right) is None
    assert ours.code == theirs.code
    assert ours.counts == theirs.counts
    return theirs.counts


def _rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape)


def _attention(query: Any, key: Any, value: Any) -> Any:
    scores = torch.matmul(query, key.transpose(-2, -1)).div(math.sqrt(16))
    return scores.softmax(dim=-1).matmul(value)


def _scaled_attention(query: Any, key: Any, value: Any) -> Any:
    return torch.matmul(query, key.transpose(-2, -1)).mul(0.25).softmax(dim=-1).matmul(value)


def _permuted_attention(query: Any, key: Any, value: Any) -> Any:
    q, k, v = (x.permute(0, 2, 1, 3) for x in (query, key, value))
    return torch.matmul(q, k.transpose(-2, -1)).div(4.0).softmax(dim=-1).matmul(v)


def _masked_attention(query: Any, key: Any, value: Any, mask: Any) -> Any:
    q, k, v = (x.permute(0, 2, 1, 3) for x in (query, key, value))
    return torch.softmax(torch.matmul(q, k.transpose(-2, -1)) / 4.0 + mask, dim=-1).matmul(v)


QKV = [_rand(2, 4, 8, 16), _rand(2, 4, 8, 16), _rand(2, 4, 8, 16)]


@pytest.mark.parametrize("attention", [_attention, _scaled_attention, _permuted_attention])
def test_attention_is_fused(attention: Any) -> None:
    assert same(attention, QKV).get("fuse_attention", 0) == 1


def test_attention_with_a_mask() -> None:
    same(_masked_attention, [*QKV, _rand(2, 8, 4, 4)])


def test_attention_whose_scores_are_read_twice_is_not_fused() -> None:
    def shared(query: Any, key: Any, value: Any) -> Any:
        scores = torch.matmul(query, key.transpose(-2, -1)).div(4.0)
        return scores.softmax(dim=-1).matmul(value), scores

    assert same(shared, QKV).get("fuse_attention", 0) == 0


A, B, BIAS = _rand(8, 16), _rand(16, 8), _rand(8)
MATMULS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "two products and a sum": (lambda a, b: a @ b + (a * 2) @ b, [A, B]),
    "a product and a bias": (lambda a, b, c: c + a @ b, [A, B, BIAS]),
    "a bias on the right": (lambda a, b, c: a @ b + c, [A, B, BIAS]),
    "a bias of another shape": (lambda a, b, c: a @ b + c, [A, B, _rand(1, 1, 8)]),
    "products side by side": (lambda a, b: torch.cat([a @ b, a @ (b + 1)], 1), [A, B]),
    "products with biases side by side": (
        lambda a, b, c: torch.cat([torch.addmm(c, a, b), torch.addmm(c, a, b)], 1),
        [A, B, BIAS],
    ),
    "a batch of one": (torch.bmm, [_rand(1, 8, 16), _rand(1, 16, 8)]),
}


@pytest.mark.parametrize("name", MATMULS)
def test_matrix_products(name: str) -> None:
    same(*MATMULS[name])


def test_a_bias_becomes_part_of_the_product() -> None:
    assert same(*MATMULS["a product and a bias"])["pattern_matcher_count"] >= 1


def _split_and_back(x: Any) -> Any:
    return torch.cat(torch.split(x, [4, 4, 8], dim=1), dim=1).sin()


def _split_some_and_back(x: Any) -> Any:
    first, second, _ = torch.split(x, [4, 4, 8], dim=1)
    return torch.cat([first, second], dim=1)


def _split_in_another_order(x: Any) -> Any:
    first, second, third = torch.split(x, [4, 4, 8], dim=1)
    return torch.cat([second, first, third], dim=1)


def _parts_for_themselves(x: Any) -> Any:
    return torch.cat([part.relu() for part in torch.split(x, 4, dim=1)], dim=1)


def _unbound_and_stacked(x: Any) -> Any:
    return torch.stack([part.tanh() for part in torch.unbind(x, dim=1)], dim=1)


SPLITS = [
    *(_split_and_back, _split_some_and_back, _split_in_another_order),
    *(_parts_for_themselves, _unbound_and_stacked),
]
SPLIT_PASSES: dict[str, Any] = {
    name: {}
    for name in (
        *("normalization_pass", "remove_split_with_size_one_pass", "merge_splits_pass"),
        *("split_cat_pass", "merge_getitem_cat_pass", "unbind_stack_pass"),
    )
}


@pytest.mark.parametrize("settings", [{}, {"pre_grad_fusion_options": SPLIT_PASSES}])
@pytest.mark.parametrize("function", SPLITS)
def test_splits_and_what_joins_them(function: Any, settings: dict[str, Any]) -> None:
    counts = same(function, [_rand(2, 16)], **settings)
    if settings and function is _parts_for_themselves:
        assert counts["normalization_pass"] > 0
