"""Runs the small models through torch.compile on real ranks, with and without the pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch import fx

from spfast.config import Divisibility, Recognise, SequenceParallelConfig
from spfast.passes import SequenceParallelismPass
from spfast.testing.models.families import build

__all__ = ["Comparison", "compare", "compare_all"]


@dataclass(frozen=True)
class Comparison:
    """What one rank saw of one model.

    Attributes:
        family: the model.
        rewritten: sites that the pass rewrote, for each compilation.
        collectives: reduce_scatters and all_gathers that it added, for each compilation.
        compilations: how many graphs were compiled with the pass.
        differences: for each input, the largest difference of the outputs, relative to the
            largest output; 0.0 where they are bitwise equal.
    """

    family: str
    rewritten: tuple[int, ...]
    collectives: tuple[tuple[int, int], ...]
    compilations: int
    differences: tuple[float, ...]


class _Watched(SequenceParallelismPass):
    """The pass, noting what it did."""

    def __init__(self, config: SequenceParallelConfig) -> None:
        super().__init__(config)
        self.rewritten: list[int] = []
        self.collectives: list[tuple[int, int]] = []

    def __call__(self, graph: fx.Graph) -> None:
        before = _count(graph)
        super().__call__(graph)
        after = _count(graph)
        self.rewritten.append(before[0] - after[0])
        self.collectives.append((after[1] - before[1], after[2] - before[2]))


def compare(
    rank: int,
    world_size: int,
    family: str,
    lengths: Sequence[int],
    batch: int = 1,
    dynamic: bool = False,
    recognise: Recognise = "both",
    divisibility: Divisibility = "guard",
) -> Comparison:
    """Compiles a model twice and runs it on inputs of several lengths; needs a process group.

    Args:
        rank: this rank.
        world_size: the number of ranks.
        family: one of FAMILIES.
        lengths: of the sequences; what is compiled first is compiled for the first one.
        batch: number of sequences.
        dynamic: whether the length is symbolic in the compiled graph.
        recognise: which recognisers the pass uses.
        divisibility: what it does about lengths that the ranks cannot share evenly.
    """
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",))
    model = build(family, mesh)
    torch.manual_seed(1)
    inputs = [model.example(batch, length) for length in lengths]
    plain, _ = _run(model.module, inputs, dynamic, None)
    config = SequenceParallelConfig(recognise=recognise, divisibility=divisibility, validate=True)
    watched = _Watched(config)
    rewritten, compilations = _run(model.module, inputs, dynamic, watched)
    differences = []
    for a, b in zip(plain, rewritten, strict=True):
        worst = (a - b).abs().max().item() / a.abs().max().item()
        if not a.isfinite().all():
            raise AssertionError(f"{family}: the outputs are not numbers; nothing was compared")
        differences.append(worst)
    return Comparison(
        family,
        tuple(watched.rewritten),
        tuple(watched.collectives),
        compilations,
        tuple(differences),
    )


def compare_all(rank: int, world_size: int, cases: Sequence[dict[str, Any]]) -> list[Comparison]:
    """:func:`compare` for several cases, one after the other on the same processes."""
    return [compare(rank, world_size, **case) for case in cases]


def _run(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], dynamic: bool, watched: Any
) -> tuple[list[torch.Tensor], int]:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter: Any = CompileCounterWithBackend("inductor")
    compiled = torch.compile(module, fullgraph=True, dynamic=None, backend=counter)
    outputs = []
    patches: dict[str, Any] = {"post_grad_custom_pre_pass": watched, "fx_graph_cache": False}
    with inductor_config.patch(patches), torch.no_grad():
        for value in inputs:
            value = value.clone()
            if dynamic:
                torch._dynamo.mark_dynamic(value, min(1, value.dim() - 1))
            outputs.append(compiled(value).clone())
    return outputs, int(counter.frame_count)


def _count(graph: fx.Graph) -> tuple[int, int, int]:
    counts = []
    for what in ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor"):
        target = getattr(torch.ops._c10d_functional, what).default
        counts.append(len(graph.find_nodes(op="call_function", target=target)))
    return counts[0], counts[1], counts[2]
