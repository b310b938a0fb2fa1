"""Every form of a pair is fused, computes what it did, and is proved to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from async_tp.forms import (
    FORMS,
    RANKS,
    ROUNDED_FIRST,
    STATIC,
    SUMMED_WIDER,
    Body,
    build,
    scales_by_row,
    scales_by_row_scattered,
)
from torch import fx

import spfast
from spfast.testing import assert_equivalent, async_tp_stand_in
from spfast.verifier import snapshot, verify

CONFIG = spfast.SequenceParallelConfig(
    tp_size=RANKS, tp_rank=0, async_tp=True, async_tp_thresholds=(), merge_sums=False
)


def ids(body: Any) -> str:
    return body.__name__ if callable(body) else str(body)


def fuse(graph: fx.Graph, rank: int = 0, **more: Any) -> spfast.AsyncTP:
    import dataclasses

    config = dataclasses.replace(CONFIG, tp_rank=rank, **more)
    with async_tp_stand_in():
        result = spfast.apply(graph, config).async_tp
    graph.lint()
    assert len(graph.nodes) == len(list(graph.nodes))
    assert result is not None
    return result


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dialect", ["functional", "vllm"])
@pytest.mark.parametrize("body", FORMS, ids=ids)
def test_a_pair_is_fused_and_computes_the_same(body: Body, dialect: str, dynamic: bool) -> None:
    if dynamic and body in STATIC:
        pytest.skip("its shapes are numbers")
    if torch.__version__ < "2.13" and body in (scales_by_row, scales_by_row_scattered):
        pytest.skip("this torch multiplies float8 by one scale alone on the CPU")
    b = build(body, dialect=dialect, dynamic=dynamic)
    tokens = 12 if dynamic else 16
    inputs = [[spec.make(rank, tokens, 0) for spec in b.inputs] for rank in range(RANKS)]
    with async_tp_stand_in():
        results = assert_equivalent(
            b.graph, lambda graph, rank: fuse(graph, rank), inputs, RANKS, rtol=1e-2
        )
    assert [(int(result), result.left) for result in results] == [(FORMS[body], ())] * RANKS


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("body", FORMS, ids=ids)
def test_what_is_fused_is_proved(body: Body, scattered: bool) -> None:
    if body in SUMMED_WIDER or (not scattered and body in ROUNDED_FIRST):
        pytest.skip("the verifier does not follow it")
    before = build(body, scattered=scattered).graph
    after = copy.deepcopy(before)
    old = snapshot(before)
    assert int(fuse(after)) == FORMS[body]
    verdict = verify(old, after, CONFIG)
    assert verdict, str(verdict)


@pytest.mark.parametrize("body", FORMS, ids=ids)
def test_what_is_replaced_is_gone(body: Body) -> None:
    graph = build(body).graph
    fuse(graph)
    names = " ".join(str(node.target) for node in graph.nodes)
    assert "symm_mem" in names and "reduce_scatter_tensor" not in names
    assert "all_gather_into" not in names and "empty" not in names


def test_a_value_that_nobody_reads_is_not_returned() -> None:
    from async_tp.forms import gathered, read_elsewhere

    for body, returned in ((gathered, False), (read_elsewhere, True)):
        graph = build(body).graph
        fuse(graph)
        (node,) = (node for node in graph.nodes if "fused_all_gather" in str(node.target))
        assert node.kwargs["return_A"] is returned, body
        assert (node.meta["val"][0] is not None) is returned
        assert isinstance(node.meta["val"][1][0], torch.Tensor)
