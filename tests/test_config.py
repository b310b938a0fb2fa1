"""SequenceParallelConfig, Range and applicability: what is accepted, refused, and said."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from spfast.applicability import Applicability, applicability, minimum_tokens
from spfast.config import Range, SequenceParallelConfig
from spfast.errors import ConfigError, SpfastError
from spfast.thresholds import DEFAULT_THRESHOLDS, Threshold


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tp_size": 0}, "tp_size=0 is too small: pass 1 or more"),
        ({"tp_size": -8}, "tp_size=-8 is too small: pass 1 or more"),
        ({"tp_size": 8.0}, "tp_size=8.0 is not a whole number: pass an int"),
        ({"tp_size": True}, "tp_size=True is not a whole number: pass an int"),
        (
            {"tp_size": 8, "tp_rank": 8},
            "tp_rank=8 is outside tp_size=8: pass a rank from 0 to 7",
        ),
        ({"tp_rank": -1}, "tp_rank=-1 is too small: pass 0 or more"),
        ({"min_token_num": -1}, "min_token_num=-1 is too small: pass 0 or more"),
        (
            {"max_num_batched_tokens": 0},
            "max_num_batched_tokens=0 is too small: pass 1 or more",
        ),
        ({"hidden_size": 0}, "hidden_size=0 is too small: pass 1 or more"),
        (
            {"divisibility": "hope"},
            "divisibility='hope' is unknown: pass one of 'guard', 'prove', 'assume', 'pad'",
        ),
        (
            {"divisibility": "pad", "local_outputs": (0,)},
            'local_outputs=(0,) with divisibility="pad": whoever takes a rank\'s rows cannot tell '
            "which of them were added: pass another divisibility",
        ),
        (
            {"recognise": "all"},
            "recognise='all' is unknown: pass one of 'patterns', 'rowwise', 'both'",
        ),
        (
            {"replicated": "all"},
            "replicated='all' is unknown: pass 'infer', 'prove', names of graph inputs, "
            "or a predicate of their nodes",
        ),
        (
            {"replicated": ("x", 1)},
            "replicated=('x', 1) is unknown: pass 'infer', 'prove', names of graph inputs, "
            "or a predicate of their nodes",
        ),
        (
            {"replicated": True},
            "replicated=True is unknown: pass 'infer', 'prove', names of graph inputs, "
            "or a predicate of their nodes",
        ),
        ({"validate": 1}, "validate=1 is unknown: pass one of True, False"),
        (
            {"group_name": ""},
            "group_name='' is not a group's name: "
            "pass the string that the graph's all_reduce carries, or None",
        ),
        *(
            ({"groups": groups}, message + ": pass a dict such as {'tp': (8, 0)}")
            for groups, message in (
                (3, "groups=3 does not map names to (size, rank)"),
                ({"": (8, 0)}, "groups has the key '', which is no group's name"),
                ({3: (8, 0)}, "groups has the key 3, which is no group's name"),
                ({"tp": 8}, "groups['tp']=8 is not (size, rank)"),
                ({"tp": (8, 0, 1)}, "groups['tp']=(8, 0, 1) is not (size, rank)"),
                ({"tp": (None, 0)}, "groups['tp'] has no size"),
                ({"tp": (8, None)}, "groups['tp'] has no rank"),
            )
        ),
        (
            {"groups": {"tp": (8, 8)}},
            "groups['tp'] has rank 8 of 8: pass a rank from 0 to 7",
        ),
        (
            {"groups": {"tp": (0, 0)}},
            "the size of groups['tp']=0 is too small: pass 1 or more",
        ),
        (
            {"groups": {"tp": (8, 1.0)}},
            "the rank of groups['tp']=1.0 is not a whole number: pass an int",
        ),
        (
            {"groups": {"tp": (8, 1)}, "group_name": "tp", "tp_rank": 2},
            "tp_rank=2 contradicts groups['tp']=(8, 1): pass one of them",
        ),
        (
            {"groups": {"tp": (8, 1)}, "group_name": "tp", "tp_size": 4},
            "tp_size=4 contradicts groups['tp']=(8, 1): pass one of them",
        ),
        (
            {"splitting_ops": "vllm.attention"},
            "splitting_ops='vllm.attention' must be a tuple of str: pass one, or ()",
        ),
        (
            {"thresholds": (8192,)},
            "thresholds=(8192,) must be a tuple of Threshold: pass one, or ()",
        ),
        ({"debug_dump": 3}, "debug_dump=3 is not a path: pass a folder's name or None"),
        (
            {"dtype": "bf17"},
            "dtype='bf17' is no torch.dtype: pass one, such as torch.bfloat16 or 'bfloat16'",
        ),
        (
            {"device": "abacus"},
            "device='abacus' names no device: pass an architecture such as 'sm90', "
            "a torch device such as 'cuda:0' or 'xpu', or None",
        ),
    ],
)
def test_bad_fields_are_refused_in_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SequenceParallelConfig(**fields)
    assert str(caught.value) == message
    assert isinstance(caught.value, (SpfastError, ValueError))


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (8, 4, r"Range\(8, 4\) ends before it starts: pass Range\(4, 8\) or correct one end"),
        (-1, 4, r"Range.start=-1 is too small: pass 0 or more"),
        (None, 4, r"Range.start=None is not a whole number"),
        (1, 2.5, r"Range.end=2.5 is not a whole number"),
    ],
)
def test_bad_ranges_are_refused(start: Any, end: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Range(start, end)


def test_a_range_holds_both_its_ends() -> None:
    tokens = Range(4, 8)
    assert [n for n in range(12) if n in tokens] == [4, 5, 6, 7, 8]
    assert not tokens.is_single_size() and Range(4, 4).is_single_size()


def test_everything_is_optional_and_frozen() -> None:
    config = SequenceParallelConfig()
    assert config.tp_size is None and config.divisibility == "guard"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.tp_size = 8  # type: ignore[misc]


def test_it_is_a_value() -> None:
    config = SequenceParallelConfig(
        tp_size=8,
        dtype=torch.bfloat16,
        device="sm90",
        splitting_ops=["a", "b"],  # type: ignore[arg-type]
    )
    assert config == pickle.loads(pickle.dumps(config)) == copy.deepcopy(config)
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))
    assert config.splitting_ops == ("a", "b")
    assert config != dataclasses.replace(config, tp_size=4)


def test_groups_are_a_value_in_any_order() -> None:
    groups = {"tp": (8, 3), "ep": (4, 0)}
    config = SequenceParallelConfig(groups=groups)
    assert dict(config.groups) == groups
    assert config == SequenceParallelConfig(groups=dict(reversed(groups.items())))
    assert config == pickle.loads(pickle.dumps(config)) == dataclasses.replace(config)
    assert hash(config) == hash(copy.deepcopy(config))
    assert config.to_dict()["groups"] == {"ep": [4, 0], "tp": [8, 3]}
    # What says the same twice is no contradiction.
    assert dataclasses.replace(config, group_name="tp", tp_size=8, tp_rank=3).tp_size == 8


def test_a_threshold_takes_the_size_of_the_only_group() -> None:
    fields: dict[str, Any] = {"hidden_size": 8192, "dtype": torch.bfloat16, "device": "sm90"}
    several = {"tp": (8, 0), "ep": (4, 0)}
    for given in ({"groups": {"tp": (8, 0)}}, {"groups": several, "group_name": "tp"}):
        assert minimum_tokens(SequenceParallelConfig(**given, **fields))[0] == 4096
    with pytest.raises(ConfigError, match="tp_size is not given, and the threshold depends on it"):
        minimum_tokens(SequenceParallelConfig(groups=several, **fields))


def test_a_dtype_may_be_named_and_a_folder_may_be_a_path() -> None:
    config = SequenceParallelConfig(dtype="bfloat16", debug_dump=Path("dump"))  # type: ignore[arg-type]
    assert config.dtype is torch.bfloat16 and config.debug_dump == "dump"
    assert SequenceParallelConfig(dtype="torch.float16").dtype is torch.float16


def is_weight(node: fx.Node) -> bool:
    return str(node.target).startswith("weight")


def test_what_is_replicated_is_a_mode_names_or_a_predicate() -> None:
    graph = fx.Graph()
    weight, x = graph.placeholder("weight_1"), graph.placeholder("x")
    lifted = graph.get_attr("scales.0")
    for mode in ("infer", "prove"):
        assert not SequenceParallelConfig(replicated=mode).names_replicated(weight)  # type: ignore[arg-type]
    named = SequenceParallelConfig(replicated={"x", "scales.0"})
    assert named.replicated == ("scales.0", "x")
    assert [named.names_replicated(node) for node in (weight, x, lifted)] == [False, True, True]
    assert named == SequenceParallelConfig(replicated=["x", "scales.0", "x"])
    assert hash(named) == hash(pickle.loads(pickle.dumps(named)))
    asked = SequenceParallelConfig(replicated=is_weight)
    assert asked.names_replicated(weight) and not asked.names_replicated(x)
    assert pickle.loads(pickle.dumps(asked)) == asked
    assert SequenceParallelConfig(replicated=()) != SequenceParallelConfig()


def test_to_dict_is_plain_and_tells_configs_apart() -> None:
    config = SequenceParallelConfig(dtype=torch.bfloat16, splitting_ops=("a",))
    plain = config.to_dict()
    assert plain["dtype"] == "torch.bfloat16" and plain["splitting_ops"] == ["a"]
    assert set(plain) == {f.name for f in dataclasses.fields(config)}
    assert plain["replicated"] == "infer"
    assert dataclasses.replace(config, replicated=("b", "a")).to_dict()["replicated"] == ["a", "b"]
    predicate = dataclasses.replace(config, replicated=is_weight).to_dict()["replicated"]
    assert predicate == f"{__name__}.is_weight"
    changed = {"tp_size": 2, "validate": True, "thresholds": (), "replicated": "prove"}
    for field, value in changed.items():
        assert dataclasses.replace(config, **{field: value}).to_dict() != plain


H100 = {"tp_size": 8, "hidden_size": 8192, "dtype": torch.bfloat16, "device": "sm90"}


@pytest.mark.parametrize(
    ("fields", "tokens", "reason"),
    [
        (H100, 4096, "8 MiB a GPU on cuda 9.0"),
        ({**H100, "tp_size": 4}, 2048, "8 MiB a GPU on cuda 9.0"),
        ({**H100, "dtype": torch.float32}, 2048, "8 MiB"),
        ({**H100, "hidden_size": 16384}, 2048, "8 MiB"),
        ({**H100, "device": "sm100"}, 16384, "32 MiB a GPU on cuda 10.0"),
        ({**H100, "device": "sm103"}, 16384, "32 MiB a GPU on cuda 10.3"),
        ({**H100, "device": "xpu", "hidden_size": 4096}, 8192, "8 MiB a GPU on xpu"),
        ({**H100, "hidden_size": 8191}, None, "hidden_size=8191 is below 8192"),
        ({**H100, "device": "xpu", "hidden_size": 4095}, None, "hidden_size=4095 is below 4096"),
        ({**H100, "device": "sm89"}, None, "no threshold is known for cuda 8.9"),
        ({**H100, "device": "cpu"}, None, "no threshold is known for cpu"),
        ({**H100, "hidden_size": None}, None, "nor is hidden_size"),
        ({**H100, "dtype": None, "hidden_size": None}, None, "nor is hidden_size or dtype"),
        ({**H100, "min_token_num": 7}, 7, "min_token_num=7"),
        ({**H100, "device": "cpu", "min_token_num": 0}, 0, "min_token_num=0"),
        ({**H100, "max_num_batched_tokens": 100}, 100, "max_num_batched_tokens=100, which caps"),
        ({**H100, "max_num_batched_tokens": 9999}, 4096, "8 MiB"),
        ({"min_token_num": 50, "max_num_batched_tokens": 20}, 20, "caps 50 (min_token_num=50)"),
    ],
)
def test_minimum_tokens(fields: dict[str, Any], tokens: int | None, reason: str) -> None:
    found, why = minimum_tokens(SequenceParallelConfig(**fields))
    assert found == tokens
    assert reason in why


def test_a_user_row_comes_first() -> None:
    mine = Threshold("cuda", 9, 0, min_hidden_size=1024, mib_per_gpu=1)
    config = SequenceParallelConfig(**{**H100, "thresholds": (mine, *DEFAULT_THRESHOLDS)})
    assert minimum_tokens(config)[0] == 512


def test_the_threshold_needs_tp_size() -> None:
    with pytest.raises(ConfigError, match="tp_size is not given, and the threshold depends on it"):
        minimum_tokens(SequenceParallelConfig(**{**H100, "tp_size": None}))


SPLIT = {"tp_size": 8, "min_token_num": 64, "splitting_ops": ("vllm::attention",)}


@pytest.mark.parametrize(
    ("fields", "tokens", "applies", "reason"),
    [
        ({"min_token_num": 64}, (64, 8192), True, "starts at or above 64 tokens"),
        ({"min_token_num": 64}, (63, 8192), False, "starts below 64 tokens (min_token_num=64)"),
        ({"min_token_num": 64}, (1, 63), False, "starts below"),
        ({"min_token_num": 0}, (0, 1), True, "starts at or above 0"),
        ({}, (64, 8192), False, "min_token_num is not given"),
        ({"min_token_num": 64, "max_num_batched_tokens": 32}, (32, 32), True, "caps 64"),
        (SPLIT, (64, 128), False, "range [64, 128] is not one size"),
        (SPLIT, (68, 68), False, "68 tokens are not a multiple of tp_size=8"),
        (SPLIT, (72, 72), True, "starts at or above 64"),
        (SPLIT, (56, 56), False, "starts below 64"),
        ({**SPLIT, "min_token_num": None}, (72, 72), False, "min_token_num is not given"),
        ({**SPLIT, "use_inductor_graph_partition": True}, (64, 129), True, "starts at or above"),
    ],
)
def test_applicability(
    fields: dict[str, Any], tokens: tuple[int, int], applies: bool, reason: str
) -> None:
    decision = applicability(SequenceParallelConfig(**fields), Range(*tokens))
    assert isinstance(decision, Applicability)
    assert bool(decision) is decision.applicable is applies
    assert reason in decision.reason
    assert str(decision).startswith("applicable: " if applies else "not applicable: ")


def test_splitting_ops_need_tp_size() -> None:
    config = SequenceParallelConfig(min_token_num=64, splitting_ops=("a",))
    with pytest.raises(ConfigError, match="tp_size is not given, and splitting_ops is set"):
        applicability(config, Range(64, 64))
