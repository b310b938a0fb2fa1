"""Graphs that reduce over several groups: whose size and rank the config gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch.testing._internal.distributed.fake_pg import FakeStore

import spfast
from spfast.ranks.groups import resolve_group, resolve_groups
from spfast.testing import clone_inputs, copy_graph, run_lockstep
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
# Four ranks: two groups of two, each rank with another place in each.
MESH = {"tp": [[0, 1], [2, 3]], "ep": [[0, 2], [1, 3]]}
SPOKEN_OF = (
    "the graph reduces over the groups 'ep', 'tp', and tp_rank=1 does not say of which: "
    "pass group_name, or groups={'ep': (size, rank), 'tp': (size, rank)}"
)


def two_groups() -> GraphBuilder:
    """A sum over one group, then over the other, added to a residual and normed."""
    build = GraphBuilder(tokens=8, dynamic=False)
    residual = build.placeholder("residual", (TOKENS, 16), torch.float32)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, kind="per_rank")
    for group in ("tp", "ep"):
        x = build.call(
            c10d.wait_tensor.default, build.call(c10d.all_reduce.default, x, "sum", group)
        )
    total = build.call(aten.add.Tensor, x, residual)
    size = build.call(aten.mean.dim, build.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
    scale = build.call(aten.rsqrt.default, build.call(aten.add.Tensor, size, 1e-6))
    build.output([build.call(aten.mul.Tensor, total, scale), total])
    return build


def of_rank(rank: int, **fields: object) -> spfast.SequenceParallelConfig:
    groups = {"tp": (2, rank % 2), "ep": (2, rank // 2)}
    return spfast.SequenceParallelConfig(groups=groups, **fields)  # type: ignore[arg-type]


def test_one_rank_for_two_groups_is_refused_by_name() -> None:
    graph = two_groups().graph
    before = str(graph)
    config = spfast.SequenceParallelConfig(tp_size=2, tp_rank=1)
    for act in (spfast.apply, spfast.explain):
        with pytest.raises(spfast.ConfigError) as error:
            act(graph, config)
        assert str(error.value) == SPOKEN_OF
    assert str(graph) == before


def test_a_name_says_of_which() -> None:
    config = spfast.SequenceParallelConfig(tp_size=2, tp_rank=1, group_name="ep")
    result = spfast.apply(two_groups().graph, config)
    assert int(result) == 1
    assert [site.reason for site in result.skipped] == ["its group 'tp' is not group_name='ep'"]


def test_each_group_has_its_own_rows() -> None:
    build = two_groups()
    inputs = [[spec.make(rank, tokens=8, seed=0) for spec in build.inputs] for rank in range(4)]
    expected = run_lockstep([build.graph] * 4, [clone_inputs(row) for row in inputs], groups=MESH)
    after, counts = [], []
    for rank in range(4):
        graph = copy_graph(build.graph)
        counts.append(int(spfast.apply(graph, of_rank(rank, validate=True))))
        after.append(graph)
    assert counts == [counts[0]] * 4 and counts[0] > 0
    found = run_lockstep(after, inputs, groups=MESH)
    for ours, theirs in zip(found, expected, strict=True):
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right)


def test_the_verifier_refuses_the_rows_of_the_other_group() -> None:
    # Rank 1 is rank 1 of "tp" and rank 0 of "ep": the rows of a residual tell which was taken.
    before, after = two_groups().graph, two_groups().graph
    assert int(spfast.apply(after, of_rank(1, group_name="ep"))) == 1
    assert spfast.verify(before, after, of_rank(1)).ok
    assert not spfast.verify(before, after, of_rank(3)).ok
    with pytest.raises(spfast.ConfigError) as error:
        spfast.verify(before, after, spfast.SequenceParallelConfig(tp_size=2, tp_rank=1))
    assert str(error.value) == SPOKEN_OF


def test_size_and_rank_speak_of_the_group_that_is_left() -> None:
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=5, groups={"ep": (4, 3)})
    found = resolve_groups(["tp", "ep"], config)
    assert [(group.name, group.size, group.rank) for group in found] == [
        ("tp", 8, 5),
        ("ep", 4, 3),
    ]
    with pytest.raises(spfast.ConfigError, match="the groups 'dp', 'tp', and tp_rank=5 does not"):
        resolve_groups(["tp", "dp", "ep"], config)


def test_a_group_that_is_not_given_is_looked_up() -> None:
    config = spfast.SequenceParallelConfig(groups={"ep": (4, 3)})
    with pytest.raises(spfast.ConfigError, match="process group 'tp' is not known to torch"):
        resolve_groups(["tp", "ep"], config)


def test_a_size_for_several_groups_must_be_that_of_each() -> None:
    dist.init_process_group("fake", rank=1, world_size=4, store=FakeStore())
    try:
        whole = dist.group.WORLD
        half = dist.new_group([0, 1])
        assert whole is not None
        names = [whole.group_name, half.group_name]
        found = resolve_groups(names, spfast.SequenceParallelConfig())
        assert [(group.size, group.rank) for group in found] == [(4, 1), (2, 1)]
        with pytest.raises(spfast.ConfigError) as error:
            resolve_groups(names, spfast.SequenceParallelConfig(tp_size=4))
        assert str(error.value) == (
            f"tp_size=4 is not the size of group '{names[1]}', which has 2 ranks: "
            f"pass group_name, or groups={{'{names[1]}': (size, rank)}}"
        )
        config = spfast.SequenceParallelConfig(tp_size=4, groups={names[1]: (2, 1)})
        assert [group.size for group in resolve_groups(names, config)] == [4, 2]
    finally:
        dist.destroy_process_group()


def test_a_group_without_a_name_is_the_only_one_of_the_config() -> None:
    make = spfast.SequenceParallelConfig
    for config in (
        make(tp_size=4, tp_rank=1),
        make(groups={"tp": (4, 1)}),
        make(groups={"tp": (4, 1), "ep": (2, 0)}, group_name="tp"),
    ):
        found = resolve_group(None, config)
        assert (found.size, found.rank, found.problem) == (4, 1, "")
    assert resolve_group(None, make(tp_size=1, tp_rank=0)).problem == (
        "its group has one rank: there is nothing to share"
    )
    with pytest.raises(spfast.ConfigError) as error:
        resolve_group(None, make(tp_size=4))
    assert str(error.value) == (
        "an all_reduce of the graph names no group: pass tp_rank in the config, or group_name"
    )


def test_groups_enter_the_key_of_inductors_cache() -> None:
    keys = {
        spfast.SequenceParallelismPass(config).uuid()
        for config in (
            spfast.SequenceParallelConfig(),
            *(of_rank(rank) for rank in range(4)),
            spfast.SequenceParallelConfig(groups={"ep": (2, 0), "tp": (2, 0)}),  # as rank 0's
        )
    }
    assert len(keys) == 5


def test_graphs_of_one_group_need_no_more_than_before() -> None:
    graph = fx.Graph()
    assert int(spfast.apply(graph, spfast.SequenceParallelConfig(tp_size=2, tp_rank=1))) == 0
    found = resolve_groups(["tp", "tp"], spfast.SequenceParallelConfig(tp_size=2, tp_rank=1))
    assert [(group.size, group.rank) for group in found] == [(2, 1)] * 2


def one_within_the_other() -> GraphBuilder:
    """A sum over all ranks, beside what each rank of "tp" has for itself."""
    build = GraphBuilder(tokens=8, dynamic=False)
    part = build.placeholder("part", (TOKENS, 16), torch.float32, kind="per_rank")
    own = build.placeholder("own", (TOKENS, 16), torch.float32, kind="per_rank")

    def reduced(x: fx.Node, group: str) -> fx.Node:
        return build.call(
            c10d.wait_tensor.default, build.call(c10d.all_reduce.default, x, "sum", group)
        )

    total = build.call(aten.add.Tensor, reduced(part, "all"), own)
    mean = build.call(aten.mean.dim, build.call(aten.pow.Tensor_Scalar, total, 2), [-1], True)
    scale = build.call(aten.rsqrt.default, build.call(aten.add.Tensor, mean, 1e-6))
    build.output([build.call(aten.mul.Tensor, total, scale), reduced(own, "tp")])
    return build


CROSSING = {"tp": (2, 0), "all": (4, 0)}
NESTED = {"tp": (2, 0), "dp": (2, 0), "all": (4, 0)}


def test_what_is_one_ranks_of_a_group_is_so_of_each_around_it() -> None:
    graph = one_within_the_other().graph
    result = spfast.apply(graph, spfast.SequenceParallelConfig(groups=NESTED))
    assert not result.matched_count
    reasons = {site.node: site.reason for site in result.skipped}
    assert reasons["all_reduce_default"].startswith("%own is this rank's own, as")
    # Groups that may cross say nothing of each other.
    crossing = spfast.SequenceParallelConfig(groups=CROSSING)
    result = spfast.apply(one_within_the_other().graph, crossing)
    assert "own" in [each.value for each in result.assumptions]


def test_the_verifier_holds_an_assumption_against_the_groups_within() -> None:
    before, after = one_within_the_other().graph, one_within_the_other().graph
    crossing = spfast.SequenceParallelConfig(groups=CROSSING)
    assert spfast.apply(after, crossing).matched_count
    assert spfast.verify(before, after, crossing)
    verdict = spfast.verify(before, after, spfast.SequenceParallelConfig(groups=NESTED))
    assert "'own'" in str(verdict.problems[0])


def test_a_group_that_no_graph_names_says_which_is_within_which() -> None:
    config = spfast.SequenceParallelConfig(groups={"tp": (2, 0), "dp": (4, 0), "all": (8, 0)})
    inner, wide = resolve_groups(["tp", "all"], config)
    assert (inner.within, wide.within) == (("all",), ())


def test_ranks_say_which_group_is_within_which() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    try:
        inner, crossing, wide = (dist.new_group(each) for each in ([0, 1], [0, 2], [0, 1, 2, 3]))
        config = spfast.SequenceParallelConfig()
        found = resolve_groups([inner, crossing, wide], config)
        names = [group.name for group in found]
        assert [group.within for group in found] == [(names[2],), (names[2],), ()]
    finally:
        dist.destroy_process_group()
