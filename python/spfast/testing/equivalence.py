"""Does a rewrite change what the ranks compute? Both versions run in lockstep, compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from spfast.testing.interpreter import GroupMap, run_lockstep

GraphLike = TypeVar("GraphLike", fx.Graph, fx.GraphModule)
Outcome = TypeVar("Outcome")


def copy_graph(graph: GraphLike) -> GraphLike:
    """Copies a graph with names and meta; parameters and meta["val"] are shared.

    Example:
        >>> from torch import fx
        >>> graph = fx.Graph()
        >>> _ = graph.output(graph.placeholder("x"))
        >>> [node.name for node in copy_graph(graph).nodes]
        ['x', 'output']
    """
    if isinstance(graph, fx.GraphModule):
        return fx.GraphModule(graph, copy.deepcopy(graph.graph))
    return copy.deepcopy(graph)


def clone_inputs(inputs: Sequence[Any]) -> list[Any]:
    """Clones the tensors among ``inputs``; one tensor given twice stays one tensor."""
    memo: dict[int, torch.Tensor] = {}

    def one(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return memo.setdefault(id(value), value.clone())

    return [one(value) for value in inputs]


def assert_same(actual: Any, expected: Any, rtol: float, what: str) -> None:
    """Asserts that two values (tensors, numbers, nested lists and tuples of them) are equal.

    Tensors must have the same shape and dtype, and differ by no more than ``rtol`` times the
    largest magnitude expected (an error of one element counts by the size of the tensor's values,
    as rounding of a sum does). 0.0 asks for equal bits; NaN equals NaN.

    Raises:
        AssertionError: they differ; the message starts with ``what``.
    """
    if isinstance(expected, (list, tuple)):
        assert isinstance(actual, (list, tuple)) and len(actual) == len(expected), (
            f"{what}: expected {len(expected)} values, got {actual!r}"
        )
        for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
            assert_same(left, right, rtol, f"{what}[{index}]")
        return
    if not isinstance(expected, torch.Tensor):
        assert actual == expected, f"{what}: expected {expected!r}, got {actual!r}"
        return
    assert isinstance(actual, torch.Tensor), f"{what}: expected a tensor, got {actual!r}"
    assert actual.shape == expected.shape, (
        f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    assert actual.dtype == expected.dtype, (
        f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    )
    left, right = actual.to(torch.float64), expected.to(torch.float64)
    finite = right[torch.isfinite(right)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    close = torch.isclose(left, right, rtol=0.0, atol=rtol * scale, equal_nan=True)
    if not bool(close.all()):
        where = tuple(int(axis) for axis in (~close).nonzero()[0])
        raise AssertionError(
            f"{what}: {int((~close).sum())} of {close.numel()} elements differ by more than "
            f"{rtol:g} of {scale:.3g}; first at {where}: {float(left[where])!r}, "
            f"expected {float(right[where])!r}"
        )


def assert_equivalent(
    before_graph: GraphLike,
    apply_fn: Callable[[GraphLike, int], Outcome],
    inputs: Sequence[Sequence[Any]],
    world_size: int,
    rtol: float = 1e-6,
    groups: GroupMap | None = None,
) -> list[Outcome]:
    """Asserts that a rewrite keeps every output and every write to an input on every rank.

    ``before_graph`` is run by all ranks; then each rank's copy is rewritten and the copies are run
    together on the same inputs. Neither ``before_graph`` nor ``inputs`` is changed.

    Args:
        before_graph: the graph that every rank would run without the rewrite.
        apply_fn: rewrites, in place, the copy it is given, for the rank it is given.
        inputs: for each rank, the values of its placeholders.
        world_size: the number of ranks.
        rtol: how far a tensor may be off, relative to its largest magnitude; 0.0 for equal bits.
        groups: as in :func:`spfast.testing.lockstep.run_lockstep`.

    Returns:
        What ``apply_fn`` returned, for each rank.

    Raises:
        AssertionError: an output or a written input differs; the message names rank, output and
            element.
        LockstepError: the rewritten graphs cannot be run together.

    Example:
        >>> import torch
        >>> from torch import fx
        >>> from spfast.testing import ops
        >>> from spfast.testing.equivalence import assert_equivalent
        >>> _ = ops.declare()
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> reduced = graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
        >>> _ = graph.output(reduced)
        >>> assert_equivalent(graph, lambda copy, rank: 0, [[torch.ones(2)]] * 2, world_size=2)
        [0, 0]
    """
    if len(inputs) != world_size:
        raise ValueError(
            f"inputs for {len(inputs)} ranks were given, but world_size is {world_size}"
        )
    expected_inputs = [clone_inputs(values) for values in inputs]
    expected = run_lockstep([before_graph] * world_size, expected_inputs, groups)
    outcomes: list[Outcome] = []
    copies: list[GraphLike] = []
    for rank in range(world_size):
        rewritten = copy_graph(before_graph)
        outcomes.append(apply_fn(rewritten, rank))
        copies.append(rewritten)
    actual_inputs = [clone_inputs(values) for values in inputs]
    actual = run_lockstep(copies, actual_inputs, groups)
    for rank in range(world_size):
        assert_same(actual[rank], expected[rank], rtol, f"rank {rank}, output")
        assert_same(
            actual_inputs[rank],
            expected_inputs[rank],
            rtol,
            f"rank {rank}, inputs after the run, input",
        )
    return outcomes
