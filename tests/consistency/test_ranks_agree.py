"""Ranks that would not do the same together are told so, all of them; other differences may be."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from spfast import RankMismatchError, SequenceParallelConfig
from spfast.consistency import check_ranks_agree, done_together, fingerprint
from spfast.testing import ops
from spfast.testing.builder import GraphBuilder
from spfast.testing.gloo import run_ranks
from spfast.testing.graphs import seeded_case

aten = torch.ops.aten


def layer(
    scale: float = 2.0,
    early: int = 0,
    bias: bool = False,
    inner: int = 1,
    tail: int = 0,
    second: bool = True,
    group: str = "tp:0",
    prefix: str = "",
) -> fx.Graph:
    """all_reduce, a scale, ``inner`` relus, mm, all_reduce: with what a rank may do by itself."""
    b = GraphBuilder(6, dynamic=False)
    x = b.placeholder(f"{prefix}x", (6, 8), torch.float32)
    weight = b.placeholder(f"{prefix}w", (8, 8), torch.float32)
    for _ in range(early):
        x = b.call(aten.relu.default, x)
    x = b.call(torch.ops.vllm.all_reduce.default, x, group)
    x = b.call(aten.mul.Tensor, x, scale)
    for _ in range(inner):
        x = b.call(aten.relu.default, x)
    x = b.call(aten.mm.default, x, weight)
    if bias:
        x = b.call(aten.add.Tensor, x, b.placeholder("bias", (8,), torch.float32))
    if second:
        x = b.call(torch.ops.vllm.all_reduce.default, x, group)
    outputs = [x]
    for _ in range(tail):
        outputs.append(b.call(aten.mm.default, x, weight))
    b.output(outputs)
    return b.graph


def split(order: tuple[int, ...] = (0, 1), name: str = "part", **fields: Any) -> fx.Graph:
    """A graph that calls two graphs with collectives, and one without, in some order."""
    parts = [fx.GraphModule(torch.nn.Module(), layer(**fields)), fx.GraphModule({}, layer())]
    local = fx.Graph()
    local.output([local.placeholder("x")])
    root = torch.nn.Module()
    for place, part in enumerate([*parts, fx.GraphModule({}, local)]):
        root.add_module(f"{name}{place}", part)
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    for place in (*order, 2):
        graph.call_module(f"{name}{place}", (x, w))
    graph.output([x])
    return fx.GraphModule(root, graph).graph


def on_rank(rank: int, world_size: int) -> dict[str, Any]:
    ops.declare()
    found: dict[str, Any] = {"fingerprint": fingerprint(seeded_case(3).graph)}
    first, last = rank == 0, rank == world_size - 1
    cases = {
        "same": layer(),
        "names": layer(prefix=f"rank{rank}_"),
        "a bias on rank 0": layer(bias=first),
        "work before": layer(early=2 if last else 0),
        "an output more": layer(tail=1 if last else 0),
        "literal": layer(scale=3.0 if last else 2.0),
        "extra": layer(inner=2 if rank == 1 else 1),
        "fewer": layer(second=not last),
        "group": layer(group="other:0" if last else "tp:0"),
        "called graphs": split(name=f"of{rank}_"),
        "a literal in a called graph": split(scale=3.0 if last else 2.0),
        "a collective in a called graph": split(second=not last),
        "called in another order": split((1, 0) if last else (0, 1), second=False),
    }
    for name, graph in cases.items():
        shown = str(graph)
        config = SequenceParallelConfig(tp_size=world_size, tp_rank=rank)
        try:
            check_ranks_agree(graph, config=config)
            found[name] = None
        except RankMismatchError as error:
            found[name] = str(error)
        assert str(graph) == shown
    try:
        check_ranks_agree(layer(scale=3.0 if last else 2.0))
        found["groups unknown"] = None
    except RankMismatchError as error:
        found["groups unknown"] = str(error)
    return found


def test_gloo_ranks_agree_or_are_told_where_they_do_not() -> None:
    results = run_ranks(on_rank, 3)
    first = results[0]
    # The processes hash strings differently; everybody raised the same, or nothing.
    assert results == [first] * 3
    for harmless in ("same", "names", "a bias on rank 0", "work before", "an output more"):
        assert first[harmless] is None, harmless
    assert first["called graphs"] is None
    assert (
        "after the pass in called graph 1: call_function|aten.mul"
        in (first["a literal in a called graph"])
    )
    assert "before the pass in called graph 1" in first["a collective in a called graph"]
    assert "in called graph 1" in first["called in another order"]
    # Nobody can say what the pass would do: the collectives are the same.
    assert first["groups unknown"] is None
    fix = (
        ": all ranks must call the same collectives in one order, and compute the same on their "
        "rows in between, or they wait for each other"
    )
    assert first["literal"] == (
        "rank 0 and rank 2 would not do the same together. Rank 0 has after the pass: "
        "call_function|aten.mul.Tensor|(%0,0x1.0000000000000p+1)|{}|torch.float32 cpu [2,8,8,1]; "
        "rank 2 has after the pass: "
        "call_function|aten.mul.Tensor|(%0,0x1.8000000000000p+1)|{}|torch.float32 cpu [2,8,8,1]"
        + fix
    )
    assert "rank 0 and rank 1 would not do the same" in first["extra"]
    assert "Rank 0 has after the pass: call_function|vllm.all_gather.default" in first["extra"]
    assert "rank 1 has after the pass: call_function|aten.relu.default" in first["extra"]
    assert "Rank 0 has before the pass: call_function|vllm.all_reduce.default" in first["fewer"]
    assert "'other:0'" in first["group"] and "'tp:0'" in first["group"]


def test_what_is_done_together_is_collectives_and_rows() -> None:
    b = GraphBuilder(4, dynamic=False)
    x = b.placeholder("x", (4, 8), torch.float32)
    rows = b.call(torch.ops.vllm.reduce_scatter.default, x, 0, 2, "tp:0")
    changed = b.call(aten.relu.default, rows)
    whole = b.call(torch.ops.vllm.all_gather.default, changed, 0, 2, "tp:0")
    b.output([b.call(aten.neg.default, whole), rows])
    assert [line.split("|")[1] for line in done_together(b.graph)] == [
        "vllm.reduce_scatter.default",
        "aten.relu.default",
        "vllm.all_gather.default",
    ]
    assert done_together(b.graph)[1] == (
        "call_function|aten.relu.default|(%0)|{}|torch.float32 cpu [2,8,8,1]"
    )


def test_a_fingerprint_covers_the_graphs_that_are_called() -> None:
    assert fingerprint(split()) == fingerprint(split())
    assert fingerprint(split()) != fingerprint(split(scale=3.0))
    assert fingerprint(split()) != fingerprint(split(second=False))
