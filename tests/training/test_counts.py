"""What a step of a decoder moves and keeps, beside the same with a plan by hand."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import Any

import pytest
import torch
from torch import fx

from spfast.integrations.inductor import enable
from spfast.testing.models.capture import fake_process_group
from spfast.testing.models.dtensor import Sizes, build_decoder
from tests.training.steps import COLLECTIVES, backend_of, saved_bytes

LONG = bool(os.environ.get("SPFAST_LONG"))
TOKENS = 64
# Nobody waits for a peer: the collectives of the graphs are what is asked for, not their values.
RANKS = 2


def graphs_of(layers: int, mesh: Any, by_hand: bool) -> list[fx.GraphModule]:
    """The forward and the backward that are lowered: with our pass, or of the plan by hand."""
    torch._dynamo.reset()
    sizes = Sizes(kv_heads=2, layers=layers)
    model = build_decoder(sizes, mesh, by_hand=by_hand, dtype=torch.bfloat16)
    rows = TOKENS // RANKS if by_hand else TOKENS
    x = torch.randn(1, rows, sizes.hidden, dtype=torch.bfloat16, requires_grad=True)
    graphs: list[fx.GraphModule] = []
    with contextlib.nullcontext() if by_hand else enable():
        found = torch.compile(model, fullgraph=True, backend=backend_of(graphs))(x)
        found.backward(torch.ones_like(found))
    assert len(graphs) == 2
    return graphs


def moved(graph: fx.GraphModule) -> Counter[tuple[str, tuple[int, ...]]]:
    """The collectives of a graph, with the shape of what is whole in each."""
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for target, name in COLLECTIVES.items():
        for node in graph.graph.find_nodes(op="call_function", target=target):
            whole = node.args[0] if name == "reduce_scatter" else node
            found[name, tuple(whole.meta["val"].shape)] += 1
    return found


@pytest.mark.parametrize(
    "layers",
    [
        2,
        *(
            pytest.param(n, marks=pytest.mark.skipif(not LONG, reason="SPFAST_LONG=1"))
            for n in (4, 8)
        ),
    ],
)
def test_four_collectives_a_layer_each_way_and_no_more_kept_than_by_hand(layers: int) -> None:
    with fake_process_group(RANKS) as mesh:
        forward, backward = graphs_of(layers, mesh, by_hand=False)
        by_hand = graphs_of(layers, mesh, by_hand=True)
    whole = (TOKENS, Sizes().hidden)
    each_way = Counter({("reduce_scatter", whole): 2 * layers, ("all_gather", whole): 2 * layers})
    assert moved(forward) == each_way
    # Beside them one sum a norm, of what each rank found of its weight's gradient in its rows.
    sums = {("all_reduce", (Sizes().hidden,)): 2 * layers + 1}
    assert moved(backward) == each_way | Counter(sums)
    assert saved_bytes(forward.graph) <= saved_bytes(by_hand[0].graph)
