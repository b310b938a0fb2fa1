"""Captures graphs of Hugging Face models, tensor parallel, as Inductor's post-grad custom pass sees
them.

No weights and no GPU: the model is built under a FakeTensorMode, sharded by transformers' own
tensor-parallel plan over a fake process group, and compiled; a recording pass in the
``post_grad_custom_pre_pass`` slot keeps the graph and ends the compilation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.fx as fx


class _Captured(Exception):
    """Ends a compilation once its graph was recorded."""


def llama_70b_config(layers: int) -> Any:
    """A transformers config of Llama-3-70B with ``layers`` decoder layers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        dtype=torch.bfloat16,
        attn_implementation="sdpa",
    )


@contextlib.contextmanager
def fake_process_group(world_size: int) -> Iterator[None]:
    """A process group of ``world_size`` ranks in this one process; collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        if dist.get_world_size() != world_size:
            raise RuntimeError(f"a process group of {dist.get_world_size()} ranks exists already")
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def capture(
    model_config: Any,
    tokens: int = 4096,
    batch: int = 1,
    dynamic: bool = False,
    layers: int | None = None,
    tp_size: int = 8,
) -> fx.Graph:
    """Captures the forward graph of a causal language model with tensor parallelism.

    Args:
        model_config: a transformers config; its model class is looked up by AutoModelForCausalLM.
        tokens: length of each sequence.
        batch: number of sequences.
        dynamic: whether the length of a sequence is symbolic.
        layers: overrides the config's number of layers.
        tp_size: ranks of the fake process group; the graph is rank 0's.

    Returns:
        The graph at the post-grad custom pre pass, its nodes' meta["val"] fake.

    Raises:
        RuntimeError: if compilation ended before that pass.
    """
    if layers is not None:
        model_config.num_hidden_layers = layers
    with fake_process_group(tp_size):
        model, mode = _sharded_model(model_config, tp_size)
        with mode:
            ids = torch.zeros(batch, tokens, dtype=torch.int64)
        if dynamic:
            torch._dynamo.mark_dynamic(ids, 1)
        return _record(model, ids)


def _sharded_model(model_config: Any, tp_size: int) -> tuple[torch.nn.Module, Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed.device_mesh import init_device_mesh
    from transformers import AutoModelForCausalLM
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism
    from transformers.initialization import no_init_weights

    mesh = init_device_mesh("cpu", (tp_size,), mesh_dim_names=("tp",))
    mode = FakeTensorMode()
    with mode, no_init_weights():
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.bfloat16)
        apply_tensor_parallelism(model, mesh, model._expand_parallel_plan(model.tp_plan))
    return model.eval(), mode


def _record(model: torch.nn.Module, ids: torch.Tensor) -> fx.Graph:
    import torch._inductor.config as inductor_config

    graphs: list[fx.Graph] = []

    def record(graph: fx.Graph) -> None:
        graphs.append(graph)
        raise _Captured

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(ids, use_cache=False).logits
        return logits

    torch._dynamo.reset()
    patches = {"post_grad_custom_pre_pass": record, "fx_graph_cache": False}
    with inductor_config.patch(patches), torch.no_grad():
        try:
            # dynamic=None: only what is marked becomes symbolic, so epsilon stays a literal.
            torch.compile(forward, fullgraph=True, dynamic=None)(ids)
        except Exception as error:
            if not graphs:
                raise RuntimeError("compilation ended before the post-grad pass") from error
    if not graphs:
        raise RuntimeError("compilation never reached the post-grad pass")
    return graphs[0]
