"""Whose memory is written to counts, not only which value."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional

import spfast
from spfast.testing import copy_graph
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier import verify

aten = torch.ops.aten
CONFIG = spfast.SequenceParallelConfig(tp_size=4, tp_rank=0)


def written(copies: int) -> fx.Graph:
    """A value is copied so often, and one of the copies is written to and returned."""
    build = GraphBuilder(tokens=8, dynamic=False)
    value = build.placeholder("value", (TOKENS, 16), torch.float32)
    for _ in range(copies):
        value = build.call(aten.clone.default, value)
    build.call(aten.add_.Tensor, value, 1.0)
    build.output([build.call(aten.mul.Tensor, value, 2.0)])
    return build.graph


def test_an_input_that_was_left_alone_may_not_be_written_to() -> None:
    found = verify(written(copies=1), written(copies=0), CONFIG)
    assert [(each.node, each.reason) for each in found.problems][:1] == [
        ("add__tensor", "does not do what 'add__tensor' did in its place")
    ]


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_a_graph_that_writes_is_equal_to_itself(copies: int) -> None:
    assert verify(written(copies), copy_graph(written(copies)), CONFIG).ok


def test_memory_that_the_graph_made_is_all_alike() -> None:
    assert verify(written(copies=2), written(copies=1), CONFIG).ok


def test_an_operator_that_is_given_all_by_keyword_is_compared_as_it_is() -> None:
    build = GraphBuilder(tokens=8, dynamic=False)
    value = build.placeholder("value", (TOKENS, 16), torch.float32)
    empty = build.call(aten.zeros.default, [8, 16])
    call = build.graph.call_function(
        triton_kernel_wrapper_functional,
        (),
        {
            "kernel_idx": 0,
            "constant_args_idx": 0,
            "grid": [(1, 1, 1)],
            "tma_descriptor_metadata": {},
            "kwargs": {"given": value, "out": empty},
            "tensors_to_clone": ["out"],
        },
    )
    call.meta["val"] = {"out": empty.meta["val"]}
    reduced = build.call(torch.ops._c10d_functional.all_reduce.default, value, "sum", "tp")
    build.output([call, build.call(torch.ops._c10d_functional.wait_tensor.default, reduced)])
    assert verify(build.graph, copy_graph(build.graph), CONFIG).ok


def test_what_was_waited_for_is_finished_by_whatever_name() -> None:
    build = GraphBuilder(tokens=8, dynamic=False)
    value = build.call(aten.relu.default, build.placeholder("value", (TOKENS, 16), torch.float32))
    funcol = torch.ops._c10d_functional
    total = build.call(funcol.all_reduce_.default, value, "sum", "tp")
    waited = build.call(funcol.wait_tensor.default, total)
    build.call(aten.add_.Tensor, total, 1.0)
    build.output([build.call(aten.mul.Tensor, waited, 2.0)])
    found = verify(build.graph, copy_graph(build.graph), CONFIG)
    assert found.ok, str(found)
