"""Training as people set it up: what each rank sees of a step with the pass and of an eager one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import spfast
from spfast.integrations.inductor import enable
from spfast.testing.models.dtensor import Sizes, build_decoder
from tests.training.megatron import HIDDEN, Stack
from tests.training.steps import (
    Errors,
    backend_of,
    count,
    gradients_of,
    rms_error,
    saved_bytes,
    worst_of,
)

CHECKED = spfast.SequenceParallelConfig(validate=True)
VOCABULARY = 64

# What a step computes: its loss, and the gradients of weights and inputs.
Found = tuple[float, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Seen:
    """One rank's view.

    Attributes:
        loss: Of the eager step, and of the compiled one with the pass.
        worst: The largest norm of a gradient's difference, relative to the gradient's.
        where: Whose it is.
        collectives: Of all graphs that were compiled with the pass, by kind.
        groups: The names of the groups that they move values in.
        graphs: How many of them there are.
        saved: Bytes that the first forward keeps for its backward.
    """

    loss: tuple[float, float]
    worst: float
    where: str
    collectives: Counter[str]
    groups: frozenset[str]
    graphs: int
    saved: int


def two_ranks(rank: int, world_size: int) -> dict[str, Seen]:
    """What two ranks see of plain tensors, one use after the other."""
    mesh = _mesh(world_size)
    plain, checkpointed = Stack(mesh, 1), Stack(mesh, 1, checkpointed=True)
    return {
        "saved": _seen(plain, [(2, 16)]),
        "again": _seen(plain, [(2, 16)], recompute_gather=True),
        "checkpointed": _seen(checkpointed, [(2, 16)]),
        # Of the last, the tokens are not divisible.
        "dynamic, accumulated": _seen(plain, [(2, 16), (2, 24), (1, 15)], dynamic=True),
    }


def two_ranks_of_dtensors(rank: int, world_size: int) -> dict[str, Seen]:
    """The same of a decoder that DTensor shards."""
    mesh = _mesh(world_size)

    def seen(sizes: Sizes, **options: Any) -> Seen:
        return _seen(build_decoder(sizes, mesh), [(2, 16), (2, 16)], sizes, **options)

    return {
        "saved": seen(Sizes(layers=2)),
        "again": seen(Sizes(layers=2), recompute_gather=True),
        "checkpointed": seen(Sizes(layers=2, checkpointed=True)),
        "tied": seen(Sizes(vocabulary=VOCABULARY, tied=True)),
    }


def _mesh(ranks: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (ranks,), mesh_dim_names=("tp",))


def _seen(
    module: nn.Module,
    shapes: list[tuple[int, int]],
    sizes: Sizes | None = None,
    dynamic: bool = False,
    **options: Any,
) -> Seen:
    """A step for each shape; their gradients add up."""
    expected = _steps(module, module, shapes, sizes)
    torch._dynamo.reset()
    graphs: list[Any] = []
    with enable(CHECKED, **options):
        compiled = torch.compile(
            module, fullgraph=True, backend=backend_of(graphs), dynamic=dynamic
        )
        found = _steps(module, compiled, shapes, sizes)
    return _compared(expected, found, graphs)


def _steps(
    module: nn.Module,
    call: Callable[..., torch.Tensor],
    shapes: list[tuple[int, int]],
    sizes: Sizes | None = None,
    dtype: torch.dtype = torch.float32,
) -> Found:
    module.zero_grad()
    total, gradients = 0.0, {}
    for index, (batch, length) in enumerate(shapes):
        generator = torch.Generator().manual_seed(length)
        if sizes is not None and sizes.vocabulary:
            x = torch.randint(0, sizes.vocabulary, (batch, length), generator=generator)
        else:
            # What comes before the layers learns too: the gradient of the values is asked for.
            x = torch.randn(batch, length, HIDDEN, generator=generator).to(dtype).requires_grad_()
        found = call(x).to(torch.promote_types(dtype, torch.float32))
        # Not the mean of the squares: after a norm that is 1 whatever the weights are, and their
        # gradients nothing but rounding.
        loss = (found - torch.randn(found.shape, generator=generator)).square().mean()
        loss.backward()
        total += loss.item()
        if x.grad is not None:
            gradients[f"input {index}"] = x.grad
    return total, gradients | gradients_of(module)


def _compared(expected: Found, found: Found, graphs: list[Any]) -> Seen:
    groups = {
        node.args[-1]
        for graph in graphs
        for node in graph.graph.nodes
        if "_c10d_functional" in str(node.target) and "wait" not in str(node.target)
    }
    return Seen(
        (expected[0], found[0]),
        *worst_of(expected[1], found[1]),
        count(graphs),
        frozenset(groups),
        len(graphs),
        saved_bytes(graphs[0].graph),
    )


# --- narrow dtypes ------------------------------------------------------------------------------


def narrow(rank: int, world_size: int) -> dict[str, Errors]:
    """Weights in bfloat16, and weights in float32 under autocast."""
    mesh = _mesh(world_size)
    return {
        "bfloat16": _errors(mesh, torch.bfloat16, contextlib.nullcontext),
        "autocast": _errors(mesh, torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)),
    }


def _errors(mesh: Any, dtype: torch.dtype, within: Callable[[], Any]) -> Errors:
    shapes = [(4, 64)]
    module = Stack(mesh, 3).to(dtype)
    exact = Stack(mesh, 3).to(torch.float64)
    exact.load_state_dict(module.state_dict())
    _, expected = _steps(exact, exact, shapes, dtype=torch.float64)

    def error(call: Callable[..., torch.Tensor]) -> float:
        def inside(x: torch.Tensor) -> torch.Tensor:
            with within():
                return call(x)

        _, found = _steps(module, inside, shapes, dtype=dtype)
        return rms_error(found, expected)

    graphs: list[Any] = []
    torch._dynamo.reset()
    plain = error(torch.compile(module, fullgraph=True, backend=backend_of([])))
    torch._dynamo.reset()
    with enable(CHECKED):
        mine = error(torch.compile(module, fullgraph=True, backend=backend_of(graphs)))
    return Errors(plain, mine, count(graphs))


# --- many steps ---------------------------------------------------------------------------------


def many_steps(rank: int, world_size: int, steps: int) -> tuple[list[float], list[float]]:
    """The losses of so many steps of AdamW, of the untouched compiled model and of the same model
    with the pass.
    """
    mesh = _mesh(world_size)

    def train() -> list[float]:
        torch._dynamo.reset()
        sizes = Sizes(layers=2, vocabulary=VOCABULARY)
        module = build_decoder(sizes, mesh)
        compiled = torch.compile(module, fullgraph=True, backend=backend_of([]))
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        losses = []
        for step in range(steps):
            generator = torch.Generator().manual_seed(step % 4)
            ids = torch.randint(0, VOCABULARY, (2, 17), generator=generator)
            logits = compiled(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    plain = train()
    with enable(CHECKED):
        return plain, train()


# --- two dims -----------------------------------------------------------------------------------


def two_by_two(rank: int, world_size: int) -> tuple[Seen, str]:
    """FSDP2 over one dim of a mesh and tensor parallelism over the other; each layer is compiled.

    Returns:
        What this rank saw, and the name of its tensor-parallel group.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world_size // 2, 2), mesh_dim_names=("dp", "tp"))
    graphs: list[Any] = []

    def build(compiled: bool) -> nn.Module:
        module = build_decoder(Sizes(layers=2), mesh["tp"])
        for layer in module.layers:
            if compiled:
                layer.compile(backend=backend_of(graphs), fullgraph=True)
            fully_shard(layer, mesh=mesh["dp"])
        fully_shard(module, mesh=mesh["dp"])
        return module

    # Ranks of one row of the mesh read the same tokens, those of another row others.
    shapes = [(2, 16 + 2 * mesh.get_coordinate()[0])]
    module = build(False)
    expected = _steps(module, module, shapes)
    torch._dynamo.reset()
    with enable(CHECKED):
        module = build(True)
        found = _steps(module, module, shapes)
    return _compared(expected, found, graphs), mesh["tp"].get_group().group_name
