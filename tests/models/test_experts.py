"""A layer of experts as vLLM calls it: one operator, of all tokens, between two sites."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized

import spfast
from spfast import SequenceParallelConfig
from spfast.testing import clone_inputs, copy_graph, ops, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier import snapshot, verify

RANKS, WIDTH, EXPERTS = 4, 32, 4
GATHER = torch.ops.vllm.all_gather.default
SCHEMA = (
    "{name}(Tensor{written} hidden_states, Tensor router_logits, Tensor? shared_experts_input, "
    "Tensor? input_ids, str layer_name, SymInt hidden_dim_unpadded) -> {returns}"
)


def mixed(hidden: torch.Tensor, logits: torch.Tensor, *_: Any) -> torch.Tensor:
    """Whatever needs all tokens: a rank that had its own rows alone would get another mean."""
    return (hidden - hidden.mean(0)) * logits.softmax(-1).amax(-1, keepdim=True)


def scratched(hidden: torch.Tensor, logits: torch.Tensor, *_: Any) -> torch.Tensor:
    """The same; what it was given is used up."""
    found = mixed(hidden, logits)
    hidden.zero_()
    return found


def beside_shared(hidden: torch.Tensor, logits: torch.Tensor, *_: Any) -> Any:
    """Beside it, what the experts that serve every token make."""
    return hidden * 0.5, mixed(hidden, logits)


FORMS = {
    "moe_forward": ("(a0!)", "Tensor", scratched),
    "moe_forward_shared": ("", "(Tensor, Tensor)", beside_shared),
}


def _same_shapes(returns: str) -> Callable[..., Any]:
    """What comes out for shapes alone: as many values as there are, each like the hidden states."""
    if returns == "Tensor":
        return lambda hidden, *_: torch.empty_like(hidden)
    return lambda hidden, *_: (torch.empty_like(hidden), torch.empty_like(hidden))


@pytest.fixture(scope="module", autouse=True)
def _operators() -> Iterator[None]:
    ops.declare()
    library = torch.library.Library("vllm", "FRAGMENT")
    for name, (written, returns, body) in FORMS.items():
        library.define(SCHEMA.format(name=name, written=written, returns=returns))
        library.impl(name, body, "CPU")
        library.impl(name, _same_shapes(returns), "Meta")
    yield
    library._destroy()


def layer(form: str, dynamic: bool) -> GraphBuilder:
    """Attention's all_reduce, a norm, a router, the experts, their all_reduce, the next norm."""
    build = GraphBuilder(8, dynamic)
    if dynamic:
        build.placeholder("tokens", (), torch.int64, "size")
    x = build.placeholder("x", (TOKENS if dynamic else 8, WIDTH), torch.float32, "per_rank")
    weight = build.placeholder("weight", (WIDTH,), torch.float32, "gain")
    router = build.placeholder("router", (WIDTH, EXPERTS), torch.float32)
    own = build.placeholder("own", (WIDTH, WIDTH), torch.float32, "per_rank")
    first = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, first, weight, 1e-6)
    logits = build.call(torch.ops.aten.mm.default, normed, router)
    operator_ = getattr(torch.ops.vllm, form).default
    rest = {"shared_experts_input": None, "input_ids": None}
    rest |= {"layer_name": "layers.0.mlp.experts", "hidden_dim_unpadded": 0}
    if form == "moe_forward":
        called = build.call(
            auto_functionalized, operator_, hidden_states=normed, router_logits=logits, **rest
        )
        mine = build.call(operator.getitem, called, 0)
    else:
        called = build.call(operator_, normed, logits, *rest.values())
        parts = [build.call(operator.getitem, called, place) for place in range(2)]
        mine = build.call(torch.ops.aten.add.Tensor, *parts)
    mine = build.call(torch.ops.aten.mm.default, mine, own)
    second = build.call(torch.ops.vllm.all_reduce.default, mine, "tp:0")
    both = build.call(torch.ops.vllm_ir.fused_add_rms_norm.default, second, first, weight, 1e-6)
    build.output([build.call(operator.getitem, both, 0)])
    return build


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_both_sites_are_rewritten_and_the_experts_get_all_tokens(form: str, dynamic: bool) -> None:
    build = layer(form, dynamic)
    graphs = [copy_graph(build.graph) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        config = SequenceParallelConfig(tp_size=RANKS, tp_rank=rank)
        result = spfast.apply(graph, config)
        assert (result.matched_count, result.skipped) == (2, ()), result
        graph.lint()
        proof = verify(snapshot(build.graph), graph, config)
        assert proof, proof
        assert len(graph.find_nodes(op="call_function", target=GATHER)) == 2
    inputs = [[spec.make(rank, 8, 0) for spec in build.inputs] for rank in range(RANKS)]
    groups = {"tp:0": tuple(range(RANKS))}
    before = run_lockstep([build.graph] * RANKS, [clone_inputs(g) for g in inputs], groups=groups)
    after = run_lockstep(graphs, [clone_inputs(g) for g in inputs], groups=groups)
    for expected, found in zip(before, after, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
