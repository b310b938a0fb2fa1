"""Multi-head latent attention as vLLM writes it: one operator of all tokens behind many views.

Its queries are written to in part, its output is a buffer whose size is read of the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import spfast
from spfast import SequenceParallelConfig
from spfast.testing import clone_inputs, copy_graph, ops, run_lockstep
from spfast.testing.models.capture import fake_process_group, record
from spfast.verifier import snapshot, verify

RANKS, TOKENS, WORDS = 2, 8, 32
WIDTH, HEADS, LATENT, PLAIN, TURNED = 32, 2, 16, 8, 4
SCHEMAS = {
    "unified_mla_kv_cache_update": "(Tensor latent, Tensor turned) -> Tensor",
    "unified_mla_attention_with_output": (
        "(Tensor q, Tensor latent, Tensor turned, Tensor(a0!) output, Tensor after) -> ()"
    ),
}


def attend(
    q: torch.Tensor, latent: torch.Tensor, turned: torch.Tensor, output: Any, _: Any
) -> None:
    """Whatever needs all tokens: a rank that had its own rows alone would get another mean."""
    seen = latent.mean(0).sum() + turned.mean(0).sum()
    output.copy_(q[..., :PLAIN].flatten(1) * seen + q[..., PLAIN:].mean())


@pytest.fixture(scope="module", autouse=True)
def _operators() -> Iterator[None]:
    ops.declare()
    library = torch.library.Library("vllm", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        library.define(f"{name}{schema}")
    for key in ("CPU", "Meta"):
        library.impl("unified_mla_kv_cache_update", lambda latent, _: latent.new_empty(0), key)
    library.impl("unified_mla_attention_with_output", attend, "CPU")
    library.impl("unified_mla_attention_with_output", lambda *_: None, "Meta")
    yield
    library._destroy()


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _parameter(WIDTH), _parameter(WIDTH)
        self.latent_norm = _parameter(LATENT)
        self.down = _parameter(LATENT + TURNED, WIDTH)
        self.query = _parameter(HEADS * (PLAIN + TURNED), WIDTH)
        self.out, self.mlp = _parameter(WIDTH, HEADS * PLAIN), _parameter(WIDTH, WIDTH)
        self.angles = _parameter(WORDS, TURNED)

    def forward(self, positions: Any, hidden: Any, residual: Any) -> Any:
        vllm, norms = torch.ops.vllm, torch.ops.vllm_ir
        hidden, residual = norms.fused_add_rms_norm(hidden, residual, self.first, 1e-6)
        latent, turned = (hidden @ self.down.t()).split([LATENT, TURNED], dim=-1)
        latent = norms.rms_norm(latent, self.latent_norm, 1e-6)
        turned = turned.unsqueeze(1)
        q = (hidden @ self.query.t()).view(-1, HEADS, PLAIN + TURNED)
        angles = self.angles[positions].unsqueeze(1)
        q[..., PLAIN:], turned = q[..., PLAIN:] * angles, turned * angles
        after = vllm.unified_mla_kv_cache_update(latent, turned)
        output = torch.empty((hidden.shape[0], HEADS * PLAIN))
        vllm.unified_mla_attention_with_output(q, latent, turned, output, after)
        hidden = vllm.all_reduce(output @ self.out.t(), "tp:0")
        hidden, residual = norms.fused_add_rms_norm(hidden, residual, self.second, 1e-6)
        return vllm.all_reduce(torch.relu(hidden) @ self.mlp.t(), "tp:0"), residual


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = _parameter(WORDS, WIDTH), _parameter(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.ops.vllm.all_reduce(nn.functional.embedding(ids, self.words), "tp:0")
        residual = torch.zeros_like(hidden)
        for layer in self.layers:
            hidden, residual = layer(ids, hidden, residual)
        return torch.ops.vllm_ir.fused_add_rms_norm(hidden, residual, self.norm, 1e-6)[0]


def inputs(graph: torch.fx.Graph, rank: int) -> list[Any]:
    """What every rank has alike: numbers, tokens, and the weights of norms."""
    made: list[Any] = []
    for place, node in enumerate(graph.find_nodes(op="placeholder")):
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            made.append(TOKENS)
            continue
        shape = [size if isinstance(size, int) else TOKENS for size in value.shape]
        own = rank if value.dim() > 1 else 0
        generator = torch.Generator().manual_seed(10 * place + own)
        if value.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator) * 0.3)
        else:
            made.append(torch.randint(0, WORDS, shape, generator=generator))
    return made


@pytest.mark.parametrize("dynamic", [False, True])
def test_all_sites_are_rewritten_and_attention_gets_all_tokens(dynamic: bool) -> None:
    with fake_process_group(RANKS):
        with torch._subclasses.fake_tensor.FakeTensorMode():
            model, example = Model(), torch.zeros(TOKENS, dtype=torch.int64)
        original = record(model, example, dynamic)
    graphs = [copy_graph(original) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, divisibility="assume")
        result = spfast.apply(graph, config)
        assert (result.matched_count, result.skipped) == (5, ()), result
        graph.lint()
        proof = verify(snapshot(original), graph, config)
        assert proof, proof
        gathers = graph.find_nodes(op="call_function", target=torch.ops.vllm.all_gather.default)
        assert len(gathers) == 5
    given = [inputs(original, rank) for rank in range(RANKS)]
    groups = {"tp:0": tuple(range(RANKS))}
    before = run_lockstep([original] * RANKS, [clone_inputs(g) for g in given], groups=groups)
    after = run_lockstep(graphs, [clone_inputs(g) for g in given], groups=groups)
    for expected, found in zip(before, after, strict=True):
        assert found[0].shape == (TOKENS, WIDTH)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
