"""Rows that were added: right padding is proved, and what reads them, or cuts elsewhere, is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import fx
from torch.utils._sympy.functions import FloorDiv

import spfast
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier import Verification, snapshot, verify
from spfast.verifier.dims import Dims

aten, vllm = torch.ops.aten, torch.ops.vllm
TP, RANK, ROWS = 4, 3, 9
CONFIG = spfast.SequenceParallelConfig(
    tp_size=TP, tp_rank=RANK, divisibility="pad", recognise="patterns"
)


def site(dynamic: bool = False) -> fx.Graph:
    """all_reduce + residual -> norm, read by a product."""
    import operator

    build = GraphBuilder(ROWS, dynamic)
    rows: Any = TOKENS if dynamic else ROWS
    x, residual = (build.placeholder(name, (rows, 16), torch.float32) for name in ("x", "r"))
    gain = build.placeholder("w", (16,), torch.float32)
    reduced = build.call(vllm.all_reduce.default, x, "tp:0")
    both = build.call(torch.ops.vllm_ir.fused_add_rms_norm.default, reduced, residual, gain, 1e-5)
    normed = build.call(operator.getitem, both, 0)
    square = build.placeholder("m", (16, 16), torch.float32)
    build.output([build.call(aten.mm.default, normed, square)])
    return build.graph


def named(graph: fx.Graph, target: Any, place: int = 0) -> fx.Node:
    return [node for node in graph.nodes if node.target is target][place]


def with_argument(target: Any, place: int, at: int, value: Any) -> Callable[[fx.Graph], None]:
    """Gives one call of an operator another argument."""

    def spoil(graph: fx.Graph) -> None:
        node = named(graph, target, place)
        args = [*node.args, None][: max(len(node.args), at + 1)]
        args[at] = value
        node.args = tuple(args)

    return spoil


def drop(target: Any, place: int) -> Callable[[fx.Graph], None]:
    def spoil(graph: fx.Graph) -> None:
        node = named(graph, target, place)
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)

    return spoil


def judged(spoil: Callable[[fx.Graph], Any], dynamic: bool = False) -> Verification:
    graph = site(dynamic)
    before = snapshot(graph)
    assert int(spfast.apply(graph, CONFIG)) == 1
    spoil(graph)
    return verify(before, graph, CONFIG)


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_the_pass_makes_is_proved(dynamic: bool) -> None:
    found = judged(lambda graph: None, dynamic)
    assert found.ok and found.sharded == 2, found


PAD, SLICE = aten.constant_pad_nd.default, aten.slice.Tensor


def with_rows(place: int, rows: int) -> Callable[[fx.Graph], None]:
    """Adds another number of rows, with a value that says so."""

    def spoil(graph: fx.Graph) -> None:
        with_argument(PAD, place, 1, [0, 0, 0, rows])(graph)
        node = named(graph, PAD, place)
        with node.meta["val"].fake_mode:
            node.meta["val"] = torch.empty(ROWS + rows, 16)

    return spoil


WRONG: dict[str, tuple[Callable[[fx.Graph], Any], str]] = {
    "too few rows are added": (with_rows(0, 2), "and 11 is not known to be a multiple of 4"),
    "another multiple": (
        with_rows(0, 7),
        "one rank's chunk [4, 16] of group 'tp:0', with rows added to 9 to make 16",
    ),
    "rows are added in front": (
        with_argument(PAD, 0, 1, [0, 0, 3, 0]),
        "mixes rows of which all are tokens with rows of which 9 are",
    ),
    "rows are added in front of the residual": (
        with_argument(PAD, 1, 1, [0, 0, 3, 0]),
        "mixes rows of which 9 are tokens with rows of which all are",
    ),
    "features are added": (with_argument(PAD, 0, 1, [0, 1, 0, 3]), ""),
    "rows are taken away": (with_argument(PAD, 0, 1, [0, 0, 0, -1]), ""),
    "the sum is not padded": (drop(PAD, 0), "and 9 is not known to be a multiple of 4"),
    "the residual is not padded": (
        drop(PAD, 1),
        "reads a full value [0, 16] in 'slice_1' together with one rank's chunk [3, 16]",
    ),
    "rows of another rank": (
        lambda graph: [with_argument(SLICE, 0, at, 3 * at)(graph) for at in (2, 3)],
        "reads rows 6:9 of 12 in 'slice_1', but rank 3 of group 'tp:0' needs rows 9:12",
    ),
    "what was added is not cut off": (
        drop(SLICE, 1),
        "is a full value [12, 16], with rows added to 9 to make 12",
    ),
    "a row of what was added stays": (with_argument(SLICE, 1, 3, 10), ""),
    "a token is cut off": (with_argument(SLICE, 1, 3, 8), ""),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_not_proved(what: str) -> None:
    spoil, reason = WRONG[what]
    found = judged(spoil)
    assert not found.ok
    assert reason in str(found), found


def test_a_symbolic_number_of_rows_has_to_be_the_multiple() -> None:
    def one_less(graph: fx.Graph) -> None:
        import operator

        node = named(graph, operator.add)
        node.args = (node.args[0], TP - 2)

    found = judged(one_less, dynamic=True)
    assert "add: carries" in str(found) and "where" in str(found), found


def test_what_is_rounded_up() -> None:
    dims, s = Dims(), sympy.Symbol("s", integer=True, positive=True)
    up = 4 * FloorDiv(s + 3, 4)
    assert dims.is_rounded_up(up, s) and dims.is_rounded_up(12, 9) and dims.is_rounded_up(9, 9)
    assert dims.is_divisible(up, 4) and dims.divide(up, 4) == FloorDiv(s + 3, 4)
    for rows in (s, s + 3, 4 * FloorDiv(s, 4), 4 * FloorDiv(s + 2, 4), 2 * FloorDiv(s + 3, 4)):
        assert not dims.is_rounded_up(rows, s), rows
    assert not dims.is_rounded_up(8, 9)


def test_padding_of_the_original_graph_is_what_it_was() -> None:
    """Its zeros are read, and ones are another value."""
    for fill, same in ((0.0, True), (1.0, False)):
        graphs = []
        for value in (0.0, fill):
            build = GraphBuilder(ROWS, False)
            x = build.placeholder("x", (ROWS, 16), torch.float32)
            build.output([build.call(PAD, x, [0, 0, 0, 3], value)])
            graphs.append(build.graph)
        assert verify(*graphs).ok == same


def test_a_part_of_a_sum_counts_no_added_rows() -> None:
    build = GraphBuilder(ROWS, False)
    x = build.placeholder("x", (ROWS, 16), torch.float32)
    reduced = build.call(vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(aten.sum.dim_IntList, build.call(aten.exp.default, reduced), [0])])

    after = GraphBuilder(ROWS, False)
    x = after.placeholder("x", (ROWS, 16), torch.float32)
    filled = after.call(PAD, x, [0, 0, 0, 3])
    shard = after.call(vllm.reduce_scatter.default, filled, 0, TP, "tp:0")
    part = after.call(aten.sum.dim_IntList, after.call(aten.exp.default, shard), [0])
    after.output([after.call(vllm.all_reduce.default, part, "tp:0")])
    found = verify(build.graph, after.graph, CONFIG)
    assert "sums rows that were added" in str(found), found


def test_one_token_is_spelled_as_it_was() -> None:
    """A row beside one token goes along with it; beside a rank's one row of many it is shared."""
    for rows in (1, 3):
        build = GraphBuilder(rows, False)
        x = build.placeholder("x", (rows, 16), torch.float32)
        gain = build.placeholder("w", (16,), torch.float32)
        reduced = build.call(vllm.all_reduce.default, x, "tp:0")
        value = build.call(aten.mul.Tensor, build.call(aten.sin.default, reduced), gain)
        square = build.placeholder("m", (16, 16), torch.float32)
        build.output([build.call(aten.mm.default, value, square)])
        before = snapshot(build.graph)
        config = spfast.SequenceParallelConfig(
            tp_size=TP, tp_rank=0, divisibility="pad", collective_cost=0
        )
        assert int(spfast.apply(build.graph, config)) == 1
        assert verify(before, build.graph, config).ok
