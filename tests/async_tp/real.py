"""Steps whose pairs are fused, on real ranks: what they compute beside the untouched step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

import spfast
from spfast.integrations.inductor import enable
from spfast.testing import async_tp_stand_in
from spfast.testing.fused import is_fused
from spfast.testing.models.dtensor import Sizes, build_decoder
from tests.training.megatron import HIDDEN, Stack
from tests.training.steps import backend_of, gradients_of, rms_error, worst_of

CONFIG = spfast.SequenceParallelConfig(async_tp=True, async_tp_thresholds=(), validate=True)

Fused = tuple[Counter[str], ...]


@dataclass(frozen=True)
class Step:
    """What one rank computed.

    Attributes:
        output: What the model yields.
        gradients: Of weights and of the input.
    """

    output: torch.Tensor
    gradients: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Found:
    """One model's step with fused pairs, beside the untouched compiled one.

    Attributes:
        output: The largest difference of the outputs, relative to the largest.
        gradient: The same of the gradients, the worst of them all.
        where: Whose it is.
        fused: The fused operators of each graph, forward first.
        left: Why collectives were not fused, by how many; of all graphs.
        errors: Of the untouched gradients and of these, from those in float64.
    """

    output: float
    gradient: float
    where: str
    fused: Fused
    left: Counter[str]
    errors: tuple[float, float]


def _mesh(ranks: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (ranks,), mesh_dim_names=("tp",))


def _given(ranks: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 4 * ranks, HIDDEN, generator=generator).to(dtype).requires_grad_()


def _step(module: nn.Module, call: Any, ranks: int, dtype: torch.dtype) -> Step:
    module.zero_grad()
    x = _given(ranks, dtype)
    output = call(x)
    generator = torch.Generator().manual_seed(4)
    output.backward(torch.randn(output.shape, generator=generator).to(dtype))
    assert x.grad is not None
    return Step(output.detach(), {"input": x.grad, **gradients_of(module)})


def _build(name: str, mesh: Any, dtype: torch.dtype) -> nn.Module:
    if name == "megatron":
        return Stack(mesh, 2).to(dtype)
    return build_decoder(Sizes(layers=2), mesh, dtype=dtype)


def steps(rank: int, ranks: int, cases: list[tuple[str, torch.dtype]]) -> list[Found]:
    """One step of each model in a dtype; the graphs that Inductor lowers are run as they are."""
    mesh = _mesh(ranks)
    return [_found(name, mesh, ranks, dtype) for name, dtype in cases]


def _found(name: str, mesh: Any, ranks: int, dtype: torch.dtype) -> Found:
    module, exact = _build(name, mesh, dtype), _build(name, mesh, torch.float64)
    exact.load_state_dict(module.state_dict())
    expected = _step(exact, exact, ranks, torch.float64).gradients
    plain = _step(module, _compiled(module, []), ranks, dtype)
    graphs: list[fx.GraphModule] = []
    known = len(spfast.last_results())
    with async_tp_stand_in(), enable(CONFIG):
        fused = _step(module, _compiled(module, graphs), ranks, dtype)
    left: Counter[str] = Counter()
    for result in spfast.last_results()[known:]:
        if result.async_tp is not None:
            left.update(pair.reason for pair in result.async_tp.left)
    scale = plain.output.abs().max().item()
    return Found(
        (fused.output - plain.output).abs().max().item() / scale,
        *worst_of(plain.gradients, fused.gradients),
        tuple(_fused(graph) for graph in graphs),
        left,
        (rms_error(plain.gradients, expected), rms_error(fused.gradients, expected)),
    )


def _compiled(module: nn.Module, graphs: list[fx.GraphModule]) -> Any:
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend=backend_of(graphs))


def _fused(graph: fx.GraphModule) -> Counter[str]:
    nodes = (node for node in graph.graph.nodes if is_fused(node.target))
    return Counter(node.target._opname for node in nodes)


def lowered(rank: int, ranks: int, mode: str | None) -> tuple[float, float, Counter[str]]:
    """A step through all of torch.compile, code included.

    Returns:
        The largest difference of the output and of a gradient from the eager step, and what was
        fused, by operator.
    """
    module = Stack(_mesh(ranks), 1)
    expected = _step(module, module, ranks, torch.float32)
    known = len(spfast.last_results())
    torch._dynamo.reset()
    with async_tp_stand_in(), enable(CONFIG):
        found = _step(
            module, torch.compile(module, fullgraph=True, mode=mode), ranks, torch.float32
        )
    done = spfast.last_results()[known:]
    operators = Counter(
        pair.operator for each in done if each.async_tp is not None for pair in each.async_tp.fused
    )
    worst, _ = worst_of(expected.gradients, found.gradients)
    scale = expected.output.abs().max().item()
    return (found.output - expected.output).abs().max().item() / scale, worst, operators


@dataclass(frozen=True)
class Cached:
    """What one rank saw of a step whose compile may come from a cache.

    Attributes:
        hits: Of AOTAutograd's cache.
        misses: The same.
        fused: Pairs, by what the last results say.
        unknown: How many of the last results say that nothing is known.
        worst: The largest difference of the output or of a gradient from the eager step.
    """

    hits: int
    misses: int
    fused: int
    unknown: int
    worst: float


def cached(rank: int, ranks: int) -> Cached:
    """A step of a process that has compiled nothing; the cache is where the environment says."""
    import torch._functorch.config as functorch_config
    from torch._dynamo.utils import counters

    mesh = _mesh(ranks)
    spfast.enable_async_tp(mesh)
    module = Stack(mesh, 1)
    expected = _step(module, module, ranks, torch.float32)
    # Off, a model with functions of its own to differentiate is not kept whole.
    settings = {
        "enable_autograd_cache": True,
        "autograd_cache_allow_custom_autograd_functions": True,
    }
    with async_tp_stand_in(), enable(CONFIG), functorch_config.patch(settings):
        compiled = torch.compile(module, fullgraph=True)
        found = _step(module, compiled, ranks, torch.float32)
        results = spfast.last_results()
    worst, _ = worst_of(
        {"output": expected.output, **expected.gradients},
        {"output": found.output, **found.gradients},
    )
    return Cached(
        counters["aot_autograd"]["autograd_cache_hit"],
        counters["aot_autograd"]["autograd_cache_miss"],
        sum(int(each.async_tp or 0) for each in results),
        sum(bool(each.note) for each in results),
        worst,
    )
