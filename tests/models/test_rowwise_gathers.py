"""What a row-wise region gathers: quantised values, and float8 as bytes where gloo has to."""

from __future__ import annotations

import torch
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.testing.gloo import run_ranks
from spfast.testing.lockstep import run_lockstep

from .rowwise_graphs import (
    RANKS,
    TOKENS,
    WIDTH,
    aten,
    check_same,
    gathered_dtypes,
    make,
    norm,
    rewrite,
)


def test_per_token_quantisation_is_gathered_quantised() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        top = g.call_function(aten.amax.default, (x, [-1], True))
        quantised = g.call_function(
            torch.ops.prims.convert_element_type.default,
            (g.call_function(aten.div.Tensor, (x, top)), torch.int8),
        )
        return g.call_function(aten.t.default, (quantised,))

    assert gathered_dtypes(check_same(body)) == [torch.int8]


def through_float8(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
    """Quantised, read by what needs all tokens, and back."""
    cast = torch.ops.prims.convert_element_type.default
    low = g.call_function(cast, (x, torch.float8_e4m3fn))
    flipped = g.call_function(aten.t.default, (low,))
    return g.call_function(cast, (flipped, torch.float32))


def test_float8_as_bytes() -> None:
    _, graphs, _ = rewrite(through_float8)
    assert gathered_dtypes(graphs[0]) == [torch.float8_e4m3fn]
    result, graphs, original = rewrite(through_float8, gather_bytes=True)
    assert int(result) == 1
    assert gathered_dtypes(graphs[0]) == [torch.uint8]
    inputs = [[torch.randn(TOKENS, WIDTH), torch.ones(WIDTH), torch.ones(TOKENS, WIDTH)]] * RANKS
    before, after = run_lockstep([original] * RANKS, inputs), run_lockstep(graphs, inputs)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[0], b[0])


def test_quantisations_stay_outside_where_the_gather_shall_stand_before_them() -> None:
    def body(g: fx.Graph, x: fx.Node, weight: fx.Node, rows: fx.Node) -> fx.Node:
        return through_float8(g, norm(g, x), weight, rows)

    _, graphs, _ = rewrite(body)
    assert gathered_dtypes(graphs[0]) == [torch.float8_e4m3fn]
    assert gathered_dtypes(check_same(body, gather_quantized=False)) == [torch.float32]


def _gathered_on_gloo(rank: int, world_size: int) -> dict[bool | None, list[torch.dtype]]:
    """By `gather_bytes`: what is gathered; the graph runs where gloo can run it."""
    x = torch.arange(TOKENS * WIDTH).reshape(TOKENS, WIDTH) * (rank + 1.0)
    inputs = (x, torch.ones(WIDTH), torch.ones(TOKENS, WIDTH))
    seen = {}
    for gather_bytes in (None, True, False):
        graph, original = make(through_float8), make(through_float8)
        config = SequenceParallelConfig(
            recognise="rowwise", gather_bytes=gather_bytes, validate=True
        )
        assert int(spfast.apply(graph, config)) == 1
        seen[gather_bytes] = gathered_dtypes(graph)
        if gather_bytes is not False:
            before, after = (
                fx.Interpreter(fx.GraphModule(torch.nn.Module(), g)).run(*inputs)[0]
                for g in (original, graph)
            )
            assert torch.equal(before, after)
    return seen


def test_float8_is_gathered_as_bytes_where_the_backend_is_gloo() -> None:
    for seen in run_ranks(_gathered_on_gloo, 2):
        assert seen == {
            None: [torch.uint8],
            True: [torch.uint8],
            False: [torch.float8_e4m3fn],
        }
