"""Training steps of small models on real ranks: with and without the pass, no code generated.

What torch.compile would lower is run as it stands, so that the numbers are those of the graphs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

import spfast
from spfast.integrations.inductor import enable
from spfast.testing.models.families import build
from tests.training.routers import settled

c10d = torch.ops._c10d_functional
COLLECTIVES = {
    c10d.all_reduce.default: "all_reduce",
    c10d.reduce_scatter_tensor.default: "reduce_scatter",
    c10d.all_gather_into_tensor.default: "all_gather",
}


@dataclass(frozen=True)
class Step:
    """What one rank saw of one training step.

    Attributes:
        loss: Its value.
        gradients: Of each parameter.
        collectives: How many of each kind move a value with a row a token, forward and backward.
        saved: Bytes of what the forward keeps for the backward, weights aside.
    """

    loss: float
    gradients: dict[str, torch.Tensor]
    collectives: Counter[str]
    saved: int


@dataclass(frozen=True)
class Compared:
    """One family's two steps.

    Attributes:
        loss: Of each step.
        worst: The largest norm of a gradient's difference, relative to the gradient's.
        where: Whose it is.
        before: Collectives of the step without the pass.
        after: With it.
        merged: Reductions that were merged.
        totals: Sums over tokens of which each rank computes its part.
    """

    loss: tuple[float, float]
    worst: float
    where: str
    before: dict[str, int]
    after: dict[str, int]
    merged: int
    totals: int


def compare(rank: int, world_size: int, families: list[str], **options: Any) -> list[Compared]:
    """Compiles and runs each family's step twice; needs a process group."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",))
    return [_compare(family, mesh, **options) for family in families]


def _compare(
    family: str, mesh: Any, length: int = 16, batch: int = 1, dynamic: bool = False
) -> Compared:
    model = build(family, mesh)
    model.module.train()
    torch.manual_seed(1)
    value = model.example(batch, length)
    plain = _step(model.module, value, dynamic)
    with enable(spfast.SequenceParallelConfig(validate=True)) as enabled:
        mine = _step(model.module, value, dynamic)
        result = enabled.joint.result
    assert result is not None
    worst, where = worst_of(plain.gradients, mine.gradients)
    return Compared(
        (plain.loss, mine.loss),
        worst,
        where,
        dict(plain.collectives),
        dict(mine.collectives),
        sum(len(each.gone) for each in result.merged),
        len(result.totals),
    )


def many_steps(
    rank: int, world_size: int, families: list[str], steps: int
) -> dict[str, tuple[list[float], list[float]]]:
    """The losses of so many steps of AdamW of each family, without the pass and with it."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",))
    found = {}
    for family in families:
        plain = _train(family, mesh, steps)
        with enable(spfast.SequenceParallelConfig(validate=True)):
            found[family] = plain, _train(family, mesh, steps)
    return found


def _train(family: str, mesh: Any, steps: int) -> list[float]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build(family, mesh)
    model.module.train()
    compiled = torch.compile(model.module, fullgraph=True, backend=backend_of([]))
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(step % 4)
        loss = compiled(model.example(1, 16)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@dataclass(frozen=True)
class Errors:
    """How far gradients are from those in float64: the root of the mean of all squares.

    Attributes:
        plain: Of the compiled step without the pass.
        mine: With it.
        collectives: With it.
    """

    plain: float
    mine: float
    collectives: Counter[str]


def narrow(rank: int, world_size: int, families: list[str]) -> list[Errors]:
    """Each family's step in bfloat16, with the pass and without; needs a process group."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",))
    return [_errors(family, mesh) for family in families]


def _errors(family: str, mesh: Any) -> Errors:
    model = build(family, mesh, dtype=torch.bfloat16)
    exact = build(family, mesh, dtype=torch.float64).module
    with torch.no_grad():
        for wide, given in zip(exact.parameters(), model.module.parameters(), strict=True):
            _local(wide).copy_(_local(given))
    torch.manual_seed(1)
    value = settled(model)
    # Compiled as well: what runs the experts of one that is not takes no float64.
    expected = _step(exact, value, dynamic=False).gradients
    plain = _step(model.module, value, dynamic=False)
    with enable(spfast.SequenceParallelConfig(validate=True)):
        mine = _step(model.module, value, dynamic=False)
    errors = (rms_error(each.gradients, expected) for each in (plain, mine))
    return Errors(*errors, mine.collectives)


def rms_error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """The root of the mean over gradients of their mean squared error; each relative to its
    largest magnitude.
    """
    squares = [
        ((found[name].double() - right) / right.abs().max()).square().mean()
        for name, right in exact.items()
    ]
    return torch.stack(squares).mean().sqrt().item()


def _step(module: torch.nn.Module, value: torch.Tensor, dynamic: bool) -> Step:
    torch._dynamo.reset()
    graphs: list[fx.GraphModule] = []
    compiled = torch.compile(module, fullgraph=True, backend=backend_of(graphs))
    for parameter in module.parameters():
        parameter.grad = None
    if dynamic:
        torch._dynamo.mark_dynamic(value, 1)
    loss = compiled(value).float().square().mean()
    loss.backward()
    gradients = gradients_of(module)
    return Step(loss.item(), gradients, count(graphs), saved_bytes(graphs[0].graph))


def count(graphs: list[fx.GraphModule]) -> Counter[str]:
    """Collectives of values with a row a token, by kind."""
    found: Counter[str] = Counter()
    for graph in graphs:
        for target, name in COLLECTIVES.items():
            nodes = graph.graph.find_nodes(op="call_function", target=target)
            found[name] += sum(node.meta["val"].dim() > 1 for node in nodes)
    return found


def gradients_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What this rank holds of each gradient."""
    return {
        name: _local(parameter.grad).clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def worst_of(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> tuple[float, str]:
    """The largest norm of a gradient's difference, relative to the gradient's, and whose it is."""
    assert expected.keys() == found.keys()
    worst = (0.0, "")
    for name, right in expected.items():
        scale = right.double().norm().item()
        assert scale > 0, name
        worst = max(worst, ((found[name].double() - right).norm().item() / scale, name))
    return worst


def saved_bytes(forward: fx.Graph) -> int:
    """What a forward returns beside its first result, its own inputs and views of those."""
    (returned,) = forward.output_node().args
    assert isinstance(returned, (tuple, list))
    kept = {node: None for node in returned[1:] if isinstance(node, fx.Node)}
    values = [node.meta["val"] for node in kept if not _is_given(node)]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return sum(math.prod(map(_number, each.shape)) * each.element_size() for each in tensors)


def _is_given(node: fx.Node) -> bool:
    while getattr(node.target, "is_view", False):
        node = node.all_input_nodes[0]  # symbolic sizes come after it
    return node.op == "placeholder"


def _number(size: Any) -> int:
    """A size, or what it is in the example."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _local(value: Any) -> torch.Tensor:
    local: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value
    return local


def backend_of(graphs: list[fx.GraphModule]) -> Callable[..., Any]:
    """Inductor up to the graphs that it lowers, pass included; they are run instead."""
    import torch._inductor.config as inductor_config
    from functorch.compile import make_boxed_func
    from torch._inductor.compile_fx import compile_fx

    def keep(graph: fx.GraphModule, inputs: Any, **_: Any) -> Any:
        after_gradients: Any = inductor_config.post_grad_custom_pre_pass
        if after_gradients is not None:
            after_gradients(graph.graph)
            graph.recompile()
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def backend(graph: fx.GraphModule, inputs: Any) -> Any:
        return compile_fx(graph, inputs, inner_compile=keep)

    return backend
