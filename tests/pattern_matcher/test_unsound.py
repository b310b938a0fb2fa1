"""Graphs that look like the pattern and are not: rewriting them would change results silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import BF16, F16, F32, Inputs, trace
from pattern_matcher.harness import agree

aten, prims = torch.ops.aten, torch.ops.prims
both = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
SCALE = 0.125


def attention(q: Any, k: Any, v: Any) -> Any:
    """Scaled dot-product attention as people write it, in [batch * heads, tokens, width]."""
    scores = aten.mul(aten.bmm(q, aten.permute(k, [0, 2, 1])), SCALE)
    return aten.bmm(aten._softmax(scores, -1, False), v)


def fused(q: Any, k: Any, v: Any) -> Any:
    whole = [aten.unsqueeze(x, 0) for x in (q, k, v)]
    return aten._scaled_dot_product_flash_attention_for_cpu(*whole, scale=SCALE)[0].squeeze(0)


def masked(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = aten.add(aten.mul(aten.bmm(q, aten.permute(k, [0, 2, 1])), SCALE), mask)
    return aten.bmm(aten._softmax(scores, -1, False), v)


def masked_fused(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return aten.add(fused(q, k, v), aten.sum(mask))


def fusing(search: Any, replace: Any, *shapes: tuple[int, ...], dtype: torch.dtype = F32) -> Any:
    def define(pm: Any) -> Any:
        matcher = pm.PatternMatcherPass("fusing")
        with Inputs().mode:
            examples = [torch.empty(shape, dtype=dtype) for shape in shapes]
            pm.register_replacement(
                search, replace, examples, pm.fwd_only, matcher, get_decomp_fn=dict
            )
        return matcher

    return define


QKV = ((8, 16, 8),) * 3


def heads(
    model: Callable[..., Any], dynamic: bool, *more: tuple[Any, ...], dtype: torch.dtype = F32
) -> Any:
    """Builds a graph of q, k, v (and masks) with a symbolic number of tokens if dynamic."""

    def build() -> Any:
        make = Inputs(s=16)
        tokens: Any = "s" if dynamic else 16
        shapes = [(8, tokens, 8)] * 3 + [
            tuple(tokens if d == "s" else d for d in shape) for shape in more
        ]
        first = [make.sizes["s"]] if dynamic else []
        tensors = [make.tensor(*shape, dtype=dtype) for shape in shapes]
        return trace(lambda *given: model(*given[len(first) :]), *first, *tensors)

    return build


def with_scale(scale: float) -> Any:
    def model(q: Any, k: Any, v: Any) -> Any:
        scores = aten.mul(aten.bmm(q, aten.permute(k, [0, 2, 1])), scale)
        return aten.bmm(aten._softmax(scores, -1, False), v)

    return model


@both
@pytest.mark.parametrize("scale", [SCALE, 0.25, 1.0, 0.1250001, -SCALE])
def test_scale_of_attention(scale: float, dynamic: bool) -> None:
    define = fusing(attention, fused, *QKV)
    agree(define, heads(with_scale(scale), dynamic), count=int(scale == SCALE))


@both
def test_softmax_over_another_dim(dynamic: bool) -> None:
    def model(q: Any, k: Any, v: Any) -> Any:
        scores = aten.mul(aten.bmm(q, aten.permute(k, [0, 2, 1])), SCALE)
        return aten.bmm(aten._softmax(scores, -2, False), v)

    agree(fusing(attention, fused, *QKV), heads(model, dynamic), count=0)


@both
def test_dtype_of_a_cast_in_attention(dynamic: bool) -> None:
    def cast_to(dtype: torch.dtype) -> Any:
        def search(q: Any, k: Any, v: Any) -> Any:
            scores = aten.mul(aten.bmm(q, aten.permute(k, [0, 2, 1])), SCALE)
            wide = prims.convert_element_type(scores, dtype)
            narrow = prims.convert_element_type(aten._softmax(wide, -1, False), BF16)
            return aten.bmm(narrow, v)

        return search

    define = fusing(cast_to(F32), lambda q, k, v: aten.add(aten.mul(q, k), v), *QKV, dtype=BF16)
    agree(define, heads(cast_to(F32), dynamic, dtype=BF16), count=1)
    agree(define, heads(cast_to(F16), dynamic, dtype=BF16), count=0)
    agree(define, heads(cast_to(torch.float64), dynamic, dtype=BF16), count=0)


MASKS = {
    "as registered": ((8, 1, "s"), 1),
    "broadcast over the first dim": ((1, "s", "s"), 1),
    "nothing to broadcast": ((8, "s", "s"), 1),
    "no leading dims": (("s",), 1),
}


@both
@pytest.mark.parametrize("name", MASKS)
def test_broadcast_of_a_mask(name: str, dynamic: bool) -> None:
    """Both matchers must say the same of each way to broadcast the mask."""
    mask, count = MASKS[name]
    define = fusing(masked, masked_fused, *QKV, (8, 1, 16))
    agree(define, heads(masked, dynamic, mask), count=count)


@both
def test_broadcast_dim_written_in_the_pattern(dynamic: bool) -> None:
    """The pattern expands over one dim, the graph over another: sizes in it were ignored before."""

    def over(dim: int) -> Any:
        def search(q: Any, k: Any, v: Any) -> Any:
            row = aten.sum(k, [dim], True)
            return aten.add(aten.mul(q, row.expand(q.shape)), v)

        return search

    def replace(q: Any, k: Any, v: Any) -> Any:
        return aten.sub(aten.mul(q, k), v)

    define = fusing(over(-1), replace, *QKV)
    agree(define, heads(over(-1), dynamic), count=1)
    agree(define, heads(over(-2), dynamic), count=0)


def reshaped(*sizes: Any) -> Any:
    return lambda q, k, v: (aten.relu(aten.view(aten.add(q, k), sizes)), aten.neg(v))


@both
def test_a_view_with_other_sizes(dynamic: bool) -> None:
    """The pattern views to sizes taken from its argument; other sizes are another function."""

    def search(q: Any, k: Any) -> Any:
        return aten.relu(aten.view(aten.add(q, k), [q.shape[0], -1, 2, q.shape[2] // 2]))

    def replace(q: Any, k: Any) -> Any:
        return aten.sigmoid(aten.sub(q, k)).view(q.shape[0], -1, 2, q.shape[2] // 2)

    define = fusing(search, replace, *QKV[:2])
    agree(define, heads(reshaped(8, -1, 2, 4), dynamic), count=1)
    agree(define, heads(reshaped(8, -1, 4, 2), dynamic), count=0)
    agree(define, heads(reshaped(8, -1, 8), dynamic), count=0)
    agree(define, heads(reshaped(4, -1, 2, 4), dynamic), count=0)


@both
def test_a_view_that_flattens(dynamic: bool) -> None:
    def rows(fold: int) -> Any:
        def search(q: Any, k: Any) -> Any:
            h, s, d = q.shape
            flat = aten.view(q, [h // fold, s * fold, d])
            return aten.bmm(flat, aten.view(k, [h // fold, d, s * fold]))

        return search

    def replace(q: Any, k: Any) -> Any:
        h, s, d = q.shape
        product = aten.bmm(q.reshape(h // 2, 2 * s, d), k.reshape(h // 2, d, 2 * s))
        return aten.relu(product)

    define = fusing(rows(2), replace, *QKV[:2])
    agree(define, heads(lambda q, k, v: rows(2)(q, k), dynamic), count=1)
    agree(define, heads(lambda q, k, v: rows(4)(q, k), dynamic), count=0)


@both
def test_equal_sizes_by_chance(dynamic: bool) -> None:
    """A literal that equals a size of the example is no size: torch decides by the match's own."""

    def search(q: Any, k: Any) -> Any:
        return aten.mul(aten.add(q, k), q.shape[-1])

    def model(factor: int) -> Any:
        return lambda q, k, v: aten.mul(aten.add(q, k), factor)

    define = fusing(search, lambda q, k: aten.add(q, k), *QKV[:2])
    agree(define, heads(model(8), dynamic), count=1)
    agree(define, heads(model(16), dynamic), count=0)


def test_two_graphs_with_one_pass() -> None:
    """What was learnt of one graph's sizes says nothing of another's."""
    first = fusing(attention, fused, *QKV)

    class Both:
        def __init__(self, pm: Any) -> None:
            self.matcher = first(pm)

        def apply(self, gm: Any) -> int:
            wrong = heads(with_scale(0.5), True)()
            right = heads(with_scale(SCALE), True)()
            assert self.matcher.apply(wrong) == 0
            return self.matcher.apply(right) + self.matcher.apply(gm)

    agree(Both, heads(with_scale(SCALE), False), count=2)


@pytest.mark.parametrize("other", [F16, torch.float64])
def test_the_same_pattern_for_another_dtype(other: torch.dtype) -> None:
    """Casts that the pattern makes depend on its arguments' dtype."""

    def search(q: Any, k: Any) -> Any:
        wide = q.to(F32)
        return aten.mul(aten.rsqrt(wide), k).to(q.dtype)

    def replace(q: Any, k: Any) -> Any:
        return aten.mul(q, k)

    def model(dtype: torch.dtype) -> Any:
        return lambda q, k, v: aten.mul(aten.rsqrt(q.to(F32)), k).to(dtype)

    define = fusing(search, replace, *QKV[:2], dtype=BF16)
    agree(define, heads(model(BF16), False, dtype=BF16))
    agree(define, heads(model(other), False, dtype=other))
    agree(define, heads(model(other), False, dtype=BF16), count=0)


def test_strides_that_the_pattern_depends_on() -> None:
    """A search that makes its argument contiguous is another graph for a contiguous one."""

    def search(q: Any, k: Any) -> Any:
        return aten.relu(q.contiguous().view(-1)).view(q.shape) + k

    def build(transposed: bool) -> Any:
        def made() -> Any:
            make = Inputs()
            stride = (1, 8) if transposed else (8, 1)
            q = make.tensor(8, 8, stride=stride)
            return trace(search, q, make.tensor(8, 8))

        return made

    def crossed() -> Any:
        make = Inputs()

        def model(q: Any, k: Any) -> Any:
            return aten.relu(aten.clone(q).view(-1)).view(8, 8) + k

        return trace(model, make.tensor(8, 8), make.tensor(8, 8))

    define = fusing(search, lambda q, k: aten.sub(q, k), (4, 4), (4, 4))
    agree(define, build(False), count=1)
    agree(define, build(True))
    agree(define, crossed)
