"""A float of which only a symbol is known is looked at without asking for its value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import spfast

c10d = torch.ops._c10d_functional
aten = torch.ops.aten


def normed(x: torch.Tensor, residual: torch.Tensor, scale: float) -> torch.Tensor:
    y = residual + c10d.wait_tensor(c10d.all_reduce(x, "sum", "tp"))
    return scale * y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-6)


def read_from_a_tensor() -> tuple[fx.GraphModule, ShapeEnv]:
    env = ShapeEnv()
    with FakeTensorMode(shape_env=env, allow_non_fake_inputs=True):
        args = (torch.empty(8, 16), torch.empty(8, 16), torch.empty(()))
    return make_fx(lambda x, r, s: normed(x, r, s.item()), tracing_mode="fake")(*args), env


def given_as_an_input() -> tuple[fx.GraphModule, ShapeEnv]:
    env = ShapeEnv()
    symbol = env.create_symbol(
        0.25, source=ConstantSource("scale"), do_not_specialize_zero_one=True
    )
    graph = fx.Graph()
    mode = FakeTensorMode(shape_env=env)

    def call(target: torch._ops.OpOverload, *args: object) -> fx.Node:
        node = graph.call_function(target, args)
        with mode:
            node.meta["val"] = target(*fx.node.map_arg(args, lambda each: each.meta["val"]))
        return node

    inputs = [graph.placeholder(name) for name in ("x", "residual", "scale")]
    with mode:
        inputs[0].meta["val"], inputs[1].meta["val"] = torch.empty(8, 16), torch.empty(8, 16)
    inputs[2].meta["val"] = torch.SymFloat(SymNode(symbol, env, float, 0.25))
    x, residual, scale = inputs
    reduced = call(c10d.wait_tensor.default, call(c10d.all_reduce.default, x, "sum", "tp"))
    y = call(aten.add.Tensor, residual, reduced)
    mean = call(aten.mean.dim, call(aten.mul.Tensor, y, y), [-1], True)
    root = call(aten.rsqrt.default, call(aten.add.Tensor, mean, 1e-6))
    graph.output((call(aten.mul.Tensor, call(aten.mul.Tensor, y, scale), root),))
    return fx.GraphModule({}, graph), env


@pytest.mark.parametrize("make", [read_from_a_tensor, given_as_an_input])
def test_a_symbolic_float_is_not_asked_for_its_value(
    make: Callable[[], tuple[fx.GraphModule, ShapeEnv]],
) -> None:
    module, env = make()
    guards = len(env.guards)
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, validate=True)
    assert int(spfast.apply(module, config)) == 1
    assert len(env.guards) == guards
