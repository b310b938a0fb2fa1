"""Ranks whose graphs differ are told so, all of them, at the first node that differs."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from spfast import RankMismatchError
from spfast.consistency import check_ranks_agree, fingerprint
from spfast.testing import ops
from spfast.testing.builder import GraphBuilder
from spfast.testing.gloo import run_ranks
from spfast.testing.graphs import seeded_case

aten = torch.ops.aten


def layer(scale: float = 2.0, extra: bool = False, tail: int = 1, prefix: str = "") -> fx.Graph:
    b = GraphBuilder(4, dynamic=False)
    x = b.placeholder(f"{prefix}x", (4, 8), torch.float32)
    if extra:
        x = b.call(aten.relu.default, x)
    x = b.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    x = b.call(aten.mul.Tensor, x, scale)
    for _ in range(tail):
        x = b.call(aten.relu.default, x)
    b.output([x])
    return b.graph


def on_rank(rank: int, world_size: int) -> dict[str, Any]:
    ops.declare()
    found: dict[str, Any] = {"fingerprint": fingerprint(seeded_case(3).graph)}
    last = rank == world_size - 1
    cases = {
        "same": layer(),
        "names": layer(prefix=f"rank{rank}_"),
        "literal": layer(scale=3.0 if last else 2.0),
        "extra": layer(extra=rank == 1),
        "longer": layer(tail=2 if last else 1),
        "shorter": layer(tail=0 if last else 1),
    }
    for name, graph in cases.items():
        try:
            check_ranks_agree(graph)
            found[name] = None
        except RankMismatchError as error:
            found[name] = str(error)
    return found


def test_gloo_ranks_agree_or_are_told_where_they_do_not() -> None:
    results = run_ranks(on_rank, 3)
    first = results[0]
    # The processes hash strings differently; everybody raised the same, or nothing.
    assert results == [first] * 3
    assert first["same"] is None and first["names"] is None
    head = "the graphs of rank 0 and rank {} differ from node number {} on: "
    fix = ": all ranks must compile the same graph, or they wait for each other in its collectives"
    assert (
        first["literal"]
        == head.format(2, 2)
        + (
            "rank 0 has 'mul_tensor' = aten.mul.Tensor(all_reduce_default) with [2.0] "
            "of shape [4, 8], "
            "rank 2 has 'mul_tensor' = aten.mul.Tensor(all_reduce_default) with [3.0] "
            "of shape [4, 8]"
        )
        + fix
    )
    assert (
        first["extra"]
        == head.format(1, 1)
        + (
            "rank 0 has 'all_reduce_default' = vllm.all_reduce.default(x) with ['tp:0'] of shape "
            "[4, 8], rank 1 has 'relu_default' = aten.relu.default(x) of shape [4, 8]"
        )
        + fix
    )
    assert (
        "rank 0 has 'output' = output(relu_default), rank 2 has 'relu_default_1'" in first["longer"]
    )
    assert "rank 0 has 'relu_default' = aten.relu" in first["shorter"]
    assert "rank 2 has 'output' = output(mul_tensor)" in first["shorter"]
