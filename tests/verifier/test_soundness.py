"""What the verifier proves is so: results are corrupted at random; those still proved are run."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.testing import (
    GraphOptions,
    TensorParallelCase,
    assert_same,
    copy_graph,
    run_lockstep,
    seeded_case,
)

COUNT = int(os.environ.get("SPFAST_FUZZ", "30"))
# Sums of float32 alone: what differs, differs by more than rounding.
OPTIONS = GraphOptions(dtypes=(torch.float32,), fp8=0.0, odd_tokens=0.0, max_layers=1)


def corrupt(graph: fx.Graph, choose: random.Random) -> str:
    """Changes one operand or one literal of one node; the same change for the same choices."""
    nodes = [node for node in graph.nodes if node.op in ("call_function", "output")]
    while True:
        node = choose.choice(nodes)
        kind = choose.random()
        if kind < 0.6 and node.all_input_nodes:
            old = choose.choice(node.all_input_nodes)
            earlier = list(graph.nodes)[: list(graph.nodes).index(node)]
            alike = [other for other in earlier if other is not old and is_alike(other, old)]
            if alike:
                new = choose.choice(alike)
                node.replace_input_with(old, new)
                return f"{node.name} reads {new.name} instead of {old.name}"
        elif node.op == "call_function":
            places = [i for i, a in enumerate(node.args) if type(a) in (int, float, str)]
            if places:
                place = choose.choice(places)
                value = node.args[place]
                other = other_literal(value, choose)
                node.update_arg(place, other)
                return f"argument {place} of {node.name} is {other} instead of {value}"


def is_alike(left: fx.Node, right: fx.Node) -> bool:
    values = left.meta.get("val"), right.meta.get("val")
    if not all(isinstance(value, torch.Tensor) for value in values):
        return False
    return str(values[0].shape) == str(values[1].shape) and values[0].dtype == values[1].dtype


def other_literal(value: Any, choose: random.Random) -> Any:
    if isinstance(value, str):
        return choose.choice([v for v in ("sum", "avg", "max") if v != value])
    if isinstance(value, float):
        return value * 2 + 1.0
    return value + choose.choice((-1, 1, 2))


def outcome(case: TensorParallelCase, graphs: list[fx.Graph]) -> Any:
    inputs = case.inputs()
    outputs = run_lockstep(graphs, inputs, case.groups)
    return outputs, inputs


@pytest.mark.timeout(0 if "SPFAST_FUZZ" in os.environ else 300)
def test_fuzz_corrupted_results_that_are_proved_are_right() -> None:
    caught = proved = 0
    for seed in range(COUNT):
        case = seeded_case(seed, OPTIONS)
        configs = [case.config(rank) for rank in range(case.world_size)]
        right = [copy_graph(case.graph) for _ in configs]
        for graph, config in zip(right, configs, strict=True):
            spfast.apply(graph, config)
        expected = outcome(case, [case.graph] * case.world_size)
        for attempt in range(6):
            wrong = [copy_graph(graph) for graph in right]
            what = [corrupt(graph, random.Random(f"{seed}/{attempt}")) for graph in wrong]
            verdicts = [
                spfast.verify(case.graph, graph, config)
                for graph, config in zip(wrong, configs, strict=True)
            ]
            if not all(verdicts):
                caught += 1
                continue
            proved += 1
            found = outcome(case, wrong)
            assert_same(found, expected, 1e-5, f"seed {seed}, attempt {attempt}, {what[0]}: proved")
    # Most corruptions matter; some do not (an operand that holds the same, a dead node).
    assert caught > 3 * COUNT and proved < 2 * COUNT, (caught, proved)
