"""What must hold of the pass on any graph: the invariants, each as a check that can fail alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

import spfast
from spfast import Result, SequenceParallelConfig, reference
from spfast.config import Recognise
from spfast.testing import TensorParallelCase, assert_equivalent, copy_graph

ALL_REDUCES = ("vllm.all_reduce.default", "_c10d_functional.all_reduce.default")
# A site stays, with this reason, where each rank would have one row: torch compiles such a graph
# apart, and the one for more tokens is rewritten.
TOO_FEW = "which is one row or none for each"


def check_case(case: TensorParallelCase) -> Result:
    """Runs the pass on every rank's copy of a drawn graph, and checks everything that must hold.

    With the patterns alone, as the reference does; and with both recognisers.
    """
    mark(case.graph)
    by_patterns = check_ranks(case, "patterns")
    as_the_reference_does(case, by_patterns)
    check_ranks(case, "both")
    never_a_loss(case)
    return by_patterns


def never_a_loss(case: TensorParallelCase) -> None:
    """With both recognisers, no more bytes than before or by the patterns alone.

    Nor more collectives for the same bytes: an all_reduce is a reduce_scatter and a gather.
    """
    moved = {}
    for recognise in ("both", "patterns", None):
        graph = copy_graph(case.graph)
        if recognise is not None:
            spfast.apply(graph, config_of(case, 0, recognise))
        moved[recognise] = moved_by(graph)
    assert moved["both"] <= moved[None], f"more than before: {moved}"
    assert moved["both"][0] <= moved["patterns"][0], f"more bytes than by patterns: {moved}"


def moved_by(graph: fx.Graph) -> tuple[int, int]:
    """Bytes that the collectives of a graph move at its example sizes, and how many there are."""
    total = count = 0
    for node in graph.nodes:
        name = str(node.target)
        times = 2 if "all_reduce" in name else int("reduce_scatter" in name or "all_gather" in name)
        if node.op != "call_function" or not times:
            continue
        value = (node if "all_gather" in name else node.args[0]).meta["val"]
        size = value.dtype.itemsize
        for dim in value.shape:
            size *= dim if isinstance(dim, int) else dim.node.hint
        total, count = total + times * size, count + times
    return total, count


def check_ranks(case: TensorParallelCase, recognise: Recognise) -> Result:
    untouched = picture(case.graph)
    graphs, results = [], []
    for rank in range(case.world_size):
        graph = copy_graph(case.graph)
        results.append(check_rank(case, graph, config_of(case, rank, recognise)))
        graphs.append(graph)
    assert picture(case.graph) == untouched, "a copy was rewritten, and the original changed"
    same_on_every_rank(graphs, results)
    same_again(case, graphs[0], recognise)
    same_numbers(case, recognise)
    return results[0]


def config_of(
    case: TensorParallelCase, rank: int, recognise: Recognise = "patterns"
) -> SequenceParallelConfig:
    return case.config(rank, recognise=recognise)


def mark(graph: fx.Graph) -> None:
    """Gives each node what a capture would leave in its meta besides the value."""
    for node in graph.nodes:
        node.meta["stack_trace"] = f"File 'model.py', in {node.name}"
        node.meta["nn_module_stack"] = {node.name: ("layer", torch.nn.Module)}


def check_rank(case: TensorParallelCase, graph: fx.Graph, config: SequenceParallelConfig) -> Result:
    """One rank: the checks that look at one graph before and after."""
    before, interface = spfast.snapshot(graph), interface_of(graph)
    reduces = all_reduces(graph)
    result = spfast.apply(graph, config)
    graph.lint()
    proof = spfast.verify(before, graph, config, replicated=replicated(case))
    assert proof.ok, proof
    assert interface_of(graph) == interface, "inputs or outputs changed"
    keeps_where_it_came_from(graph)
    every_all_reduce_is_accounted_for(reduces, graph, result)
    divisibility_is_known(case, graph, result)
    after = picture(graph)
    again = spfast.apply(graph, config)
    assert int(again) == 0 and picture(graph) == after, "a second run changed something"
    assert [site.node for site in again.skipped] == [site.node for site in result.skipped]
    return result


def replicated(case: TensorParallelCase) -> list[str] | None:
    """The inputs that are the same on every rank; None where they prove too little.

    Nothing proves that what one group has reduced is the same on the ranks of another.
    """
    if len(case.groups) > 1:
        return None
    return [spec.name for spec in case.specs if spec.kind != "per_rank"]


def all_reduces(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.nodes if str(node.target) in ALL_REDUCES]


def picture(graph: fx.Graph) -> list[Any]:
    """A graph with names, users and meta, as plain data that can be compared."""
    return [
        (
            node.name,
            node.op,
            str(node.target),
            str(node.args),
            str(node.kwargs),
            [user.name for user in node.users],
            [(key, id(value) if key == "val" else str(value)) for key, value in node.meta.items()],
        )
        for node in graph.nodes
    ]


def describe(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # A size may be written in another way, such as 2*(s//2): compared by its example.
        sizes = [size if isinstance(size, int) else size.node.hint for size in value.shape]
        return (sizes, value.dtype, value.device)
    return str(value)


def interface_of(graph: fx.Graph) -> Any:
    inputs = [
        (node.name, node.target, describe(node.meta["val"]))
        for node in graph.nodes
        if node.op == "placeholder"
    ]
    (output,) = (node for node in graph.nodes if node.op == "output")
    returned = [
        describe(value.meta["val"]) if isinstance(value, fx.Node) else value
        for value in output.args[0]
    ]
    return inputs, returned


def keeps_where_it_came_from(graph: fx.Graph) -> None:
    for node in graph.nodes:
        assert "stack_trace" in node.meta and "nn_module_stack" in node.meta, node.name


def every_all_reduce_is_accounted_for(before: list[str], graph: fx.Graph, result: Result) -> None:
    left = all_reduces(graph)
    assert [site.node for site in result.skipped] == left, "skipped sites are not what is left"
    assert int(result) + len(left) == len(before)
    assert sum(result.by_pattern.values()) == int(result)
    assert all(site.reason for site in result.skipped), "a site was left without a reason"


def divisibility_is_known(case: TensorParallelCase, graph: fx.Graph, result: Result) -> None:
    if not case.divisible:
        assert int(result) == 0, "rows would be lost"
    if int(result) and case.dynamic:
        sizes = (
            size
            for node in graph.nodes
            if isinstance(node.meta.get("val"), torch.Tensor) and node.op == "placeholder"
            for size in node.meta["val"].shape
            if isinstance(size, torch.SymInt)
        )
        size = next(sizes)
        batch = case.rows // case.tokens
        assert statically_known_true(batch * size % case.world_size == 0), "no guard was added"


def same_on_every_rank(graphs: list[fx.Graph], results: list[Result]) -> None:
    """All but the literals that say which rows are a rank's own."""
    for (first, second), (left, right) in zip(
        itertools.pairwise(graphs), itertools.pairwise(results), strict=True
    ):
        assert left == right
        assert skeleton(first) == skeleton(second)


def skeleton(graph: fx.Graph) -> list[Any]:
    def without_numbers(value: Any) -> Any:
        return fx.node.map_aggregate(value, lambda a: "int" if type(a) is int else str(a))

    return [
        (node.name, node.op, str(node.target), without_numbers(node.args), str(node.kwargs))
        for node in graph.nodes
    ]


def same_again(case: TensorParallelCase, graph: fx.Graph, recognise: Recognise) -> None:
    again = copy_graph(case.graph)
    spfast.apply(again, config_of(case, 0, recognise))
    assert str(again) == str(graph), "the same graph was rewritten in two ways"


def as_the_reference_does(case: TensorParallelCase, result: Result) -> None:
    expected = reference.apply(copy_graph(case.graph), config_of(case, 0))
    assert (int(result), dict(result.by_pattern)) == (int(expected), dict(expected.by_pattern))
    assert [site.node for site in result.skipped] == [site.node for site in expected.skipped]


def same_numbers(case: TensorParallelCase, recognise: Recognise) -> None:
    counts = [case.tokens]
    if case.dynamic and case.divisible:
        counts += [case.tokens + case.world_size, case.world_size]

    def rewrite(graph: fx.Graph, rank: int) -> None:
        spfast.apply(graph, config_of(case, rank, recognise))

    for tokens in filter(case.admits, counts):
        inputs = case.inputs(tokens)
        assert_equivalent(case.graph, rewrite, inputs, case.world_size, case.rtol, case.groups)


def described(case: TensorParallelCase, check: Callable[[TensorParallelCase], Any]) -> Any:
    """Runs a check; a failure tells what was drawn."""
    shown = copy.deepcopy(case.graph)
    try:
        return check(case)
    except Exception as error:
        raise AssertionError(f"{error}\ndrawn: {', '.join(case.notes)}\n{shown}") from error
