"""Counts that ranks cannot share evenly: padded in the graph, and the same on every rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

import spfast
from spfast import reference
from spfast.config import Recognise
from spfast.testing import (
    GraphOptions,
    TensorParallelCase,
    assert_equivalent,
    assert_same,
    clone_inputs,
    copy_graph,
    ops,
    run_ranks,
    seeded_case,
)
from spfast.testing.dialects import DIALECTS
from tests.pool import checks
from tests.pool.program import Input, Program, Step, V, build
from tests.pool.world import World
from tests.trust.checks import (
    described,
    every_all_reduce_is_accounted_for,
    interface_of,
    keeps_where_it_came_from,
    mark,
    picture,
    replicated,
    same_on_every_rank,
)

COUNT = int(os.environ.get("SPFAST_FUZZ", "24"))
OPTIONS = GraphOptions(odd_tokens=0.7, max_layers=3)
RECOGNISERS: tuple[Recognise, ...] = ("patterns", "both")


def all_reduces(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.nodes if "all_reduce" in str(node.target)]


def guards_of(graph: fx.Graph) -> list[str]:
    values = (node.meta.get("val") for node in graph.nodes)
    env = next(v.fake_mode.shape_env for v in values if isinstance(v, FakeTensor))
    return [str(guard.expr) for guard in env.guards]


def padded(case: TensorParallelCase, rank: int, recognise: Recognise) -> Any:
    return case.config(rank, recognise=recognise, divisibility="pad", validate=True)


def check(case: TensorParallelCase) -> int:
    """Everything that must hold of a padded rewrite; returns how many sites it has."""
    mark(case.graph)
    counts = {}
    for recognise in RECOGNISERS:
        graphs, results = [], []
        for rank in range(case.world_size):
            graph = copy_graph(case.graph)
            reduces, guards, interface = all_reduces(graph), guards_of(graph), interface_of(graph)
            before, config = spfast.snapshot(graph), padded(case, rank, recognise)
            result = spfast.apply(graph, config)
            graph.lint()
            assert guards_of(graph) == guards, "a guard was added"
            proof = spfast.verify(before, graph, config, replicated=replicated(case))
            assert proof.ok, proof
            assert interface_of(graph) == interface
            every_all_reduce_is_accounted_for(reduces, graph, result)
            keeps_where_it_came_from(graph)
            after = picture(graph)
            assert int(spfast.apply(graph, config)) == 0 and picture(graph) == after
            graphs.append(graph)
            results.append(result)
        same_on_every_rank(graphs, results)
        counts[recognise] = int(results[0])

        def rewrite(graph: fx.Graph, rank: int, recognise: Recognise = recognise) -> None:
            spfast.apply(graph, replace(padded(case, rank, recognise), validate=False))

        for tokens in filter(case.admits, range(1, 10) if case.dynamic else (case.tokens,)):
            inputs = case.inputs(tokens)
            assert_equivalent(case.graph, rewrite, inputs, case.world_size, case.rtol, case.groups)
    as_reference = reference.apply(copy_graph(case.graph), padded(case, 0, "patterns"))
    assert int(as_reference) == counts["patterns"]
    return counts["patterns"]


@pytest.mark.timeout(0 if "SPFAST_FUZZ" in os.environ else 300)
def test_drawn_graphs_of_every_count() -> None:
    rewritten = sites = odd = 0
    for seed in range(7000, 7000 + COUNT):
        case = seeded_case(seed, OPTIONS)
        if case.dynamic and case.rows <= case.world_size:
            continue  # one row a rank, which is left with a guard
        rewritten += described(case, check)
        sites += len(case.sites)
        odd += not case.divisible
    assert rewritten > 0.6 * sites and odd > COUNT // 4, (rewritten, sites, odd)


# --- one graph, every count ----------------------------------------------------------------------


def layer(dynamic: bool, dialect: str, world_size: int) -> TensorParallelCase:
    """A drawn layer, with more tokens in its example than ranks."""
    options = GraphOptions(
        dialects=(dialect,),
        world_sizes=(world_size,),
        max_layers=2,
        dtypes=(torch.float32,),
        three_d=False,
        irregular=0.0,
        fp8=0.0,
        several_groups=0.0,
        reductions=0.0,
    )
    for seed in range(1000):
        case = seeded_case(seed, options)
        if case.dynamic == dynamic and case.tokens > world_size:
            return case
    raise AssertionError("none was drawn")


def counts_of(case: TensorParallelCase) -> Iterator[int]:
    return filter(case.admits, range(1, 10))


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_symbolic_graph_is_right_for_every_count(dialect: str, world_size: int) -> None:
    case = layer(True, dialect, world_size)
    assert list(counts_of(case)) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert check(case) == len(case.sites)


def _on_gloo(rank: int, world_size: int) -> list[int]:
    ops.declare()
    ops.register_group("tp:0", dist.group.WORLD)
    done = []
    for dialect in ("vllm_ir", "functional"):
        case = layer(True, dialect, world_size)
        graph = copy_graph(case.graph)
        expected = [_run(graph, case.inputs(tokens)[rank]) for tokens in counts_of(case)]
        done.append(int(spfast.apply(graph, padded(case, rank, "both"))))
        for tokens, outputs in zip(counts_of(case), expected, strict=True):
            actual = _run(graph, case.inputs(tokens)[rank])
            assert_same(actual, outputs, 1e-6, f"{dialect}, {tokens} tokens, rank {rank}")
    return done


def _run(graph: fx.Graph, inputs: list[Any]) -> Any:
    module = fx.GraphModule(torch.nn.Module(), graph)
    return fx.Interpreter(module).run(*clone_inputs(inputs))


@pytest.mark.parametrize("world_size", [2, 4])
def test_real_ranks_say_the_same(world_size: int) -> None:
    by_rank = run_ranks(_on_gloo, world_size)
    assert all(done == by_rank[0] and all(done) for done in by_rank)


def test_sums_that_padding_makes_alike_are_merged_at_once() -> None:
    """And a second run finds nothing that the first has left."""
    program = Program(
        World(2),
        inputs=tuple(Input(name, (3, "s", 4), differs=("tp",)) for name in ("a", "b")),
        steps=(
            *(
                step
                for name in ("a", "b")
                for step in (
                    Step(f"{name}r", "_c10d_functional.all_reduce.default", (V(name), "sum", "tp")),
                    Step(f"{name}w", "_c10d_functional.wait_tensor.default", (V(f"{name}r"),)),
                )
            ),
            Step("total", "aten.add.Tensor", (V("aw"), V("bw"))),
            Step("out", "aten.relu.default", (V("total"),)),
        ),
        outputs=("out",),
        symbols={"s": 5},
        config={"divisibility": "pad"},
    )
    assert "again" not in {failure.kind for failure in checks.check(program).failures}
    config = spfast.SequenceParallelConfig(
        tp_size=2, tp_rank=0, group_name="tp", divisibility="pad"
    )
    foreseen = spfast.explain(build(program), config).merged
    assert len(foreseen) == 1 and foreseen == spfast.apply(build(program), config).merged
