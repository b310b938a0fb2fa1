"""How many ranks a group has, which is this one, and how groups lie to each other."""

from __future__ import annotations

import pytest

from spfast.config import SequenceParallelConfig
from spfast.errors import ConfigError
from spfast.ranks.groups import check_unambiguous, lies_across, lies_within, resolve_group


def sizes(**groups: int) -> SequenceParallelConfig:
    return SequenceParallelConfig(groups={name: (size, 0) for name, size in groups.items()})


def test_what_the_config_gives_is_taken() -> None:
    found = resolve_group("tp", SequenceParallelConfig(groups={"tp": (8, 3)}))
    assert (found.name, found.size, found.rank, found.problem) == ("tp", 8, 3, "")


def test_a_group_without_a_name_is_the_only_one_of_the_config() -> None:
    assert resolve_group(None, sizes(tp=4)).name == "tp"
    with pytest.raises(ConfigError, match="names no group: pass tp_size and tp_rank"):
        resolve_group(None, sizes(tp=4, ep=2))


def test_a_group_of_one_rank_has_nothing_to_share() -> None:
    assert resolve_group("tp", sizes(tp=1)).problem.endswith("there is nothing to share")
    assert resolve_group("tp", sizes(tp=2)).problem == ""


def test_another_group_than_the_wanted_stays() -> None:
    config = SequenceParallelConfig(tp_size=2, tp_rank=0, group_name="tp")
    assert resolve_group("tp", config).problem == ""
    assert resolve_group("ep", config).problem == "its group 'ep' is not group_name='tp'"


def test_a_group_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not known to torch.distributed in this process"):
        resolve_group("tp", SequenceParallelConfig())


@pytest.mark.parametrize(
    ("inner", "outer", "within", "across"),
    [
        ("tp", "all", True, False),
        ("dp", "all", True, False),
        ("all", "tp", False, False),
        ("tp", "tp", False, False),
        ("tp", "dp", False, True),
        ("tp", "unknown", False, False),
    ],
)
def test_sizes_tell_how_groups_lie(inner: str, outer: str, within: bool, across: bool) -> None:
    config = sizes(tp=2, dp=4, all=8)
    assert lies_within(inner, outer, config) is within
    assert lies_across(inner, outer, config) is across


def test_a_group_may_be_part_of_a_larger_one() -> None:
    assert not lies_across("tp", "cp", sizes(tp=4, cp=2))
    assert lies_across("tp", "cp", sizes(tp=3, cp=2))


def test_one_rank_for_several_groups_is_ambiguous() -> None:
    config = SequenceParallelConfig(tp_size=2, tp_rank=0)
    check_unambiguous(["tp"], config)
    with pytest.raises(
        ConfigError, match=r"groups 'ep', 'tp', and tp_rank=0 does not say of which"
    ):
        check_unambiguous(["tp", "ep"], config)
