"""Records a model's forward graph as Inductor's post-grad custom pass sees it, without weights.

The model is built under a FakeTensorMode over a fake process group and compiled; a pass in the
``post_grad_custom_pre_pass`` slot keeps the graph and ends the compilation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import fx

from spfast.testing.models.families import build
from spfast.testing.models.hf import build_hf

__all__ = ["capture", "capture_hf", "fake_process_group", "record"]


class _Captured(Exception):
    """Ends a compilation once its graph was recorded."""


@contextlib.contextmanager
def fake_process_group(world_size: int) -> Iterator[Any]:
    """A process group of ``world_size`` ranks in this one process; collectives do nothing.

    Yields:
        A one-dimensional DeviceMesh of all ranks.

    Raises:
        RuntimeError: a group of another size exists already.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    own = not dist.is_initialized()
    if own:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    elif dist.get_world_size() != world_size:
        raise RuntimeError(
            f"a process group of {dist.get_world_size()} ranks exists already: "
            f"end it, or ask for as many"
        )
    try:
        yield init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",))
    finally:
        if own:
            dist.destroy_process_group()


def capture(
    family: str,
    batch: int = 1,
    length: int = 64,
    dynamic: bool = False,
    layers: int = 2,
    tp_size: int = 4,
    dtype: torch.dtype = torch.bfloat16,
) -> fx.Graph:
    """Captures one of the small models of :mod:`spfast.testing.models.families`.

    Args:
        family: its name.
        batch: number of sequences.
        length: tokens of each.
        dynamic: whether the length is symbolic.
        layers: decoder layers.
        tp_size: ranks of the fake process group; the graph is rank 0's.
        dtype: of the weights.

    Returns:
        The graph; its nodes' meta["val"] are fake tensors.

    Raises:
        RuntimeError: compilation ended before the pass.
    """
    with fake_process_group(tp_size) as mesh:
        mode = torch._subclasses.fake_tensor.FakeTensorMode()
        with mode:
            model = build(family, mesh, layers=layers, dtype=dtype, weights=False)
            example = model.example(batch, length)
        return record(model.module, example, dynamic)


def capture_hf(config: Any, batch: int, length: int, dynamic: bool, tp_size: int) -> fx.Graph:
    """As :func:`capture`, of any causal language model of transformers by its config."""
    with fake_process_group(tp_size) as mesh:
        mode = torch._subclasses.fake_tensor.FakeTensorMode()
        with mode:
            module = build_hf(config, mesh, weights=False)
            example = torch.zeros(batch, length, dtype=torch.int64)
        return record(module, example, dynamic)


def record(
    module: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, dynamic: bool
) -> fx.Graph:
    """Compiles up to the post-grad custom pass and returns the graph there.

    Args:
        module: what to compile.
        example: its input; dim 1 is the length of a sequence (dim 0, where there is only one).
        dynamic: whether that dim is symbolic.

    Raises:
        RuntimeError: compilation ended before the pass.
    """
    import torch._inductor.config as inductor_config

    graphs: list[fx.Graph] = []

    def keep(graph: fx.Graph) -> None:
        graphs.append(graph)
        raise _Captured

    if dynamic:
        torch._dynamo.mark_dynamic(example, min(1, example.dim() - 1))
    torch._dynamo.reset()
    patches: dict[str, Any] = {"post_grad_custom_pre_pass": keep, "fx_graph_cache": False}
    cause: Exception | None = None
    with inductor_config.patch(patches), torch.no_grad():
        try:
            # dynamic=None: only what is marked becomes symbolic, so epsilon stays a literal.
            torch.compile(module, fullgraph=True, dynamic=None)(example)
        except Exception as error:
            cause = error
    if not graphs:
        raise RuntimeError("compilation ended before the post-grad pass") from cause
    return graphs[0]
