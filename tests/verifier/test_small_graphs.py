"""Small pairs of graphs: rows, groups, symbolic sizes, mistakes of the original pass."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx
from verifier.pairs import Body, Maker, aten, pair


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            lambda m: m.norm(m.reduce(m.x)), lambda m: m.gather(m.norm(m.scatter(m.x))), id="norm"
        ),
        pytest.param(
            lambda m: m.norm(m.add(m.reduce(m.x), m.res)),
            lambda m: m.gather(m.norm(m.add(m.scatter(m.x), m.rows(m.res, 4, 8)))),
            id="residual",
        ),
        pytest.param(
            lambda m: m.add(m.reduce(m.x), m.call(aten.relu.default, m.res)),
            lambda m: m.gather(
                m.add(m.scatter(m.x), m.call(aten.relu.default, m.rows(m.res, 4, 8)))
            ),
            id="rows_taken_early",
        ),
        pytest.param(
            lambda m: m.call(aten.mul.Tensor, m.reduce(m.x), m.weight),
            lambda m: m.gather(m.call(aten.mul.Tensor, m.scatter(m.x), m.weight)),
            id="broadcast",
        ),
        pytest.param(
            lambda m: m.call(aten._softmax.default, m.reduce(m.x), -1, False),
            lambda m: m.gather(m.call(aten._softmax.default, m.scatter(m.x), -1, False)),
            id="softmax",
        ),
        pytest.param(
            lambda m: m.part(m.call(aten.topk.default, m.reduce(m.x), 3, -1), 0),
            lambda m: m.gather(m.part(m.call(aten.topk.default, m.scatter(m.x), 3, 1), 0)),
            id="topk",
        ),
        pytest.param(
            lambda m: m.relu(m.part(m.call(aten.split.Tensor, m.reduce(m.x), 5, 1), 1)),
            lambda m: m.gather(m.relu(m.part(m.call(aten.split.Tensor, m.scatter(m.x), 5, 1), 1))),
            id="split_features",
        ),
        pytest.param(
            lambda m: m.call(aten.cat.default, [m.reduce(m.x), m.res], -1),
            lambda m: m.gather(m.call(aten.cat.default, [m.scatter(m.x), m.rows(m.res, 4, 8)], -1)),
            id="cat_features",
        ),
        pytest.param(
            lambda m: m.relu(m.call(aten.slice.Tensor, m.reduce(m.x), 1, 2, 6)),
            lambda m: m.gather(m.relu(m.call(aten.slice.Tensor, m.scatter(m.x), 1, 2, 6))),
            id="slice_features",
        ),
        pytest.param(
            lambda m: m.reduce(m.x),
            lambda m: m.bits(m.gather(m.bits(m.scatter(m.x), torch.int32)), torch.float32),
            id="gathered_as_bits",
        ),
        pytest.param(
            lambda m: m.bits(m.reduce(m.x), torch.int32),
            lambda m: m.gather(
                m.bits(m.bits(m.bits(m.scatter(m.x), torch.int32), torch.float32), torch.int32)
            ),
            id="bits_and_back",
        ),
        pytest.param(
            lambda m: m.call(aten.copy_.default, m.buffer, m.reduce(m.x)),
            lambda m: m.call(aten.copy_.default, m.buffer, m.gather(m.scatter(m.x))),
            id="written_whole",
        ),
    ],
)
def test_right_pairs_are_proved(before: Body, after: Body) -> None:
    assert pair(before, after) == {}


def test_a_flattened_stream_is_proved_and_the_batch_may_not_be_scattered_alone() -> None:
    def three(m: Maker, b: int) -> fx.Node:
        return m.call(aten.reshape.default, m.x, [b, 8 // b, 8])

    def flat(m: Maker, x: fx.Node) -> fx.Node:
        return m.call(aten.reshape.default, x, [-1, 8])

    def before(m: Maker) -> fx.Node:
        return m.norm(m.reduce(three(m, 4)))

    def after(m: Maker) -> fx.Node:
        normed = m.gather(m.norm(m.scatter(flat(m, three(m, 4)))))
        return m.call(aten.reshape.default, normed, [4, -1, 8])

    assert pair(before, after) == {}
    # Four sequences over two ranks: the chunks of the flat rows are the same elements.
    assert pair(before, lambda m: m.gather(m.norm(m.scatter(three(m, 4))))) == {}
    found = pair(
        lambda m: m.norm(m.reduce(three(m, 1))),
        lambda m: m.gather(m.norm(m.scatter(three(m, 1)))),
    )
    assert (
        "scatters the 1 rows of 'reshape_default' over 2 ranks" in found["reduce_scatter_default"]
    )


def test_one_row_of_each_rank_is_told_from_what_all_rows_share() -> None:
    """Cut out of a full value of two rows, [1, 8] is a row; as a weight, it broadcasts."""

    def body(sharded: bool) -> Body:
        def make(m: Maker) -> fx.Node:
            two = [m.placeholder(name, (2, 8), torch.float32) for name in ("partial", "residual")]
            shared = m.placeholder("shared", (1, 8), torch.float32)
            residual = m.rows(two[1], 1, 2) if sharded else two[1]
            changed = m.call(aten.mul.Tensor, m.call(aten.relu.default, residual), shared)
            if not sharded:
                return m.add(m.reduce(two[0]), changed)
            return m.gather(m.add(m.scatter(two[0]), changed))

        return make

    assert not pair(body(False), body(True))

    def wrong(m: Maker) -> fx.Node:
        two = [m.placeholder(name, (2, 8), torch.float32) for name in ("partial", "residual")]
        shared = m.placeholder("shared", (1, 8), torch.float32)
        changed = m.call(aten.mul.Tensor, m.call(aten.relu.default, m.rows(two[1], 0, 1)), shared)
        return m.gather(m.add(m.scatter(two[0]), changed))

    (reason,) = pair(body(False), wrong).values()
    assert "rows 0:1 of 2" in reason
    assert "needs rows 1:2" in reason


def test_symbolic_rows_need_an_assumption_or_a_guard() -> None:
    def before(m: Maker) -> fx.Node:
        return m.norm(m.add(m.reduce(m.x), m.res))

    def after(m: Maker) -> fx.Node:
        size = m.call(aten.sym_size.int, m.x, 0)
        local = m.call(operator.floordiv, size, 2)
        rows = m.call(aten.narrow.default, m.res, 0, local, local)
        return m.gather(m.norm(m.add(m.scatter(m.x), rows)))

    assert pair(before, after, dynamic=True, divisibility="assume") == {}
    found = pair(before, after, dynamic=True)
    assert "is not known to be a multiple of 2" in found["reduce_scatter_default"]
    found = pair(before, after, dynamic=True, divisibility="assume", tp_rank=0)
    assert "rank 0 of group 'tp:0' needs rows 0:" in found["add_tensor"]


def test_the_rank_is_learned_when_nobody_knows_it_and_must_then_agree() -> None:
    def after(m: Maker, second: int) -> fx.Node:
        first = m.add(m.scatter(m.x), m.rows(m.res, 4, 8))
        other = m.add(m.scatter(m.buffer), m.rows(m.res, second, second + 4))
        return m.gather(m.norm(m.add(first, other)))

    def before(m: Maker) -> fx.Node:
        other = m.add(m.reduce(m.buffer), m.res)
        return m.norm(m.add(m.add(m.reduce(m.x), m.res), other))

    assert pair(before, lambda m: after(m, 4), tp_rank=None, tp_size=None) == {}
    found = pair(before, lambda m: after(m, 0), tp_rank=None, tp_size=None)
    assert found == {
        "add_tensor_1": "reads rows 0:4 of 8 in 'slice_tensor_1', but rank 1 of group 'tp:0' "
        "needs rows 4:8"
    }


@pytest.mark.parametrize(
    "name, change",
    [
        ("topk", lambda m: m.part(m.call(aten.topk.default, m.scatter(m.x), 3, 0), 0)),
        ("cat", lambda m: m.call(aten.cat.default, [m.scatter(m.x), m.scatter(m.x)], 0)),
        ("cumsum", lambda m: m.call(aten.cumsum.default, m.scatter(m.x), 0)),
        ("flip", lambda m: m.call(aten.flip.default, m.scatter(m.x), [0])),
    ],
)
def test_working_along_tokens_needs_all_of_them(name: str, change: Body) -> None:
    whole = {
        "topk": lambda m: m.part(m.call(aten.topk.default, m.reduce(m.x), 3, 0), 0),
        "cat": lambda m: m.call(aten.cat.default, [m.reduce(m.x), m.reduce(m.x)], 0),
        "cumsum": lambda m: m.call(aten.cumsum.default, m.reduce(m.x), 0),
        "flip": lambda m: m.call(aten.flip.default, m.reduce(m.x), [0]),
    }
    found = pair(whole[name], lambda m: m.gather(change(m)))
    assert any(node.startswith(name) for node in found), found


@pytest.mark.parametrize("dims", [[0], [0, 1]])
def test_a_sum_over_tokens_of_some_is_a_part_of_it(dims: list[int]) -> None:
    def whole(m: Maker) -> fx.Node:
        return m.call(aten.sum.dim_IntList, m.reduce(m.x), dims)

    def part(m: Maker) -> fx.Node:
        return m.call(aten.sum.dim_IntList, m.scatter(m.x), dims)

    assert pair(whole, lambda m: m.reduce(part(m))) == {}
    (reason,) = pair(whole, part).values()
    assert reason.startswith("returns 'sum_dim_int_list', which is one rank's part [")


def test_bits_are_other_values_than_what_they_are_the_bits_of() -> None:
    """Negated as integers and viewed back, or viewed back as something else."""
    neg = aten.neg.default
    found = pair(
        lambda m: m.call(neg, m.reduce(m.x)),
        lambda m: m.bits(m.gather(m.call(neg, m.bits(m.scatter(m.x), torch.int32))), torch.float32),
    )
    assert found
    found = pair(
        lambda m: m.call(neg, m.bits(m.reduce(m.x), torch.int32)),
        lambda m: m.gather(m.call(neg, m.bits(m.scatter(m.x), torch.uint32))),
    )
    assert found
    # Of another width, it is no matter of rows.
    found = pair(
        lambda m: m.reduce(m.x),
        lambda m: m.bits(m.gather(m.bits(m.scatter(m.x), torch.int16)), torch.float32),
    )
    assert any("view" in node for node in found), found


# --- known failures of the original pass ---


def test_a_shard_written_to_a_whole_input() -> None:
    found = pair(
        lambda m: m.call(aten.copy_.default, m.buffer, m.reduce(m.x)),
        lambda m: m.call(aten.copy_.default, m.buffer, m.gather(m.scatter(m.x))),
    )
    assert found == {}

    def after(m: Maker) -> fx.Node:
        shard = m.scatter(m.x)
        node = m.graph.call_function(aten.copy_.default, (m.buffer, shard))
        node.meta["val"] = m.buffer.meta["val"]
        return m.gather(shard)

    def before(m: Maker) -> fx.Node:
        reduced = m.reduce(m.x)
        m.call(aten.copy_.default, m.buffer, reduced)
        return reduced

    assert (
        "needs a full value, but 'reduce_scatter_default'" in pair(before, after)["copy__default"]
    )


def test_a_full_value_added_to_a_shard() -> None:
    def after(m: Maker) -> fx.Node:
        shard = m.scatter(m.x)
        node = m.graph.call_function(aten.add.Tensor, (shard, m.res))
        node.meta["val"] = shard.meta["val"]
        return m.gather(node)

    found = pair(lambda m: m.add(m.reduce(m.x), m.res), after)
    assert (
        "reads a full value [8, 8] in 'res' together with one rank's chunk" in found["add_tensor"]
    )


def test_a_chunk_of_tokens_taken_from_a_shard() -> None:
    found = pair(
        lambda m: m.call(operator.getitem, m.call(aten.split.Tensor, m.reduce(m.x), 2), 0),
        lambda m: m.call(operator.getitem, m.call(aten.split.Tensor, m.scatter(m.x), 2), 0),
    )
    assert "works along dim 0 of one rank's chunk [4, 8]" in found["split_tensor"]
    found = pair(lambda m: m.rows(m.reduce(m.x), 0, 1), lambda m: m.rows(m.scatter(m.x), 0, 1))
    assert "takes rows 0:1 of one rank's chunk" in found["slice_tensor"]


def test_one_of_two_norms_left_whole() -> None:
    """The residual of the first site is sharded, the second site was not rewritten."""

    def before(m: Maker) -> fx.Node:
        first = m.add(m.reduce(m.x), m.res)
        hidden = m.call(aten.mm.default, m.norm(first), m.matrix)
        return m.norm(m.add(m.reduce(hidden), first))

    def after(m: Maker) -> fx.Node:
        first = m.add(m.scatter(m.x), m.rows(m.res, 4, 8))
        hidden = m.call(aten.mm.default, m.gather(m.norm(first)), m.matrix)
        reduced = m.reduce(hidden)
        node = m.graph.call_function(aten.add.Tensor, (reduced, first))
        node.meta["val"] = reduced.meta["val"]
        return m.norm(node)

    found = pair(before, after)
    assert (
        list(found) == ["add_tensor_1"]
        and "together with one rank's chunk" in found["add_tensor_1"]
    )


def test_a_gather_of_rows_that_nobody_scattered() -> None:
    found = pair(lambda m: m.norm(m.res), lambda m: m.gather(m.norm(m.rows(m.res, 4, 8))))
    assert list(found) == ["all_gather_default"]


def test_the_shard_of_one_group_gathered_over_another() -> None:
    found = pair(
        lambda m: m.norm(m.reduce(m.x)), lambda m: m.gather(m.norm(m.scatter(m.x)), "other:0")
    )
    assert "gathers over group 'other:0'" in found["all_gather_default"]
