"""Numbers that a rank may have for itself: arguments, and sizes that depend on data."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import spfast
from spfast.testing import clone_inputs, copy_graph, run_lockstep

c10d = torch.ops._c10d_functional
WORLD = 4


def normed(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    total = residual + c10d.wait_tensor(c10d.all_reduce(x, "sum", "0"))
    return total * torch.rsqrt((total * total).mean(-1, keepdim=True) + 1e-6)


def argument() -> fx.GraphModule:
    """The first row of a vocabulary, or of the experts, that is this rank's."""

    def forward(x: torch.Tensor, residual: torch.Tensor, start: int) -> torch.Tensor:
        rows = torch.arange(8)
        mine = (rows >= start) & (rows < start + 2)
        return torch.tanh(normed(x, residual) * mine.unsqueeze(-1))

    x = torch.randn(8, 16)
    return make_fx(forward, tracing_mode="symbolic")(x, x.clone(), 3)


def selected() -> fx.GraphModule:
    """How many elements of a value some condition holds of."""
    with FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=True)):
        inputs = [torch.empty(8, 16) for _ in range(3)]
    return make_fx(
        lambda x, residual, own: torch.tanh(normed(x, residual) * own[own > 0].shape[0])
    )(*inputs)


def size() -> fx.GraphModule:
    """How many tokens there are: that all ranks have."""

    def forward(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return torch.tanh(normed(x, residual) * x.shape[0])

    x = torch.randn(8, 16)
    return make_fx(forward, tracing_mode="symbolic")(x, x.clone())


def config(rank: int = 1, **fields: object) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(
        tp_size=WORLD, tp_rank=rank, divisibility="assume", validate=True, **fields
    )


@pytest.mark.parametrize("make", [argument, selected])
def test_a_number_that_a_rank_may_have_for_itself_is_listed(make: object) -> None:
    module = make()  # type: ignore[operator]
    result = spfast.apply(module, config())
    assert int(result) == 1
    names = {each.value for each in result.assumptions} - {"residual_1"}
    assert len(names) == 1, result.assumptions


@pytest.mark.parametrize("make", [argument, selected])
def test_where_all_has_to_be_proved_it_meets_no_rows(make: object) -> None:
    module = make()  # type: ignore[operator]
    graphs = []
    for rank in range(WORLD):
        graph = copy_graph(module)
        result = spfast.apply(graph, config(rank, replicated=["residual_1"]))
        assert int(result) == 1 and not result.assumptions
        graphs.append(graph)
    inputs = []
    for rank in range(WORLD):
        generator = torch.Generator().manual_seed(rank)
        x, own = (torch.randn(8, 16, generator=generator) for _ in range(2))
        residual = torch.ones(8, 16)
        inputs.append([x, residual, 2 * rank if make is argument else own])
    expected = run_lockstep([module] * WORLD, [clone_inputs(each) for each in inputs])
    for got, want in zip(run_lockstep(graphs, inputs), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_the_size_of_an_input_is_proved() -> None:
    module = size()
    result = spfast.apply(module, config(replicated=["residual_1"]))
    assert int(result) == 1 and not result.assumptions
    (product,) = (node for node in module.graph.nodes if node.name == "mul_2")
    assert "//" in str(product.meta["val"].shape[0])
