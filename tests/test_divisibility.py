"""Which numbers of tokens are known to be multiples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, guard_bool

from spfast.config import SequenceParallelConfig
from spfast.ranks.divisibility import decide, too_few

Make = Callable[[Any], Any]


def backed(hint: int) -> Any:
    env, source = ShapeEnv(), ConstantSource("s")
    symbol = env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
    return env.create_symintnode(symbol, hint=hint, source=source)


MULTIPLES: list[Make] = [
    lambda s: s,
    lambda s: 3 * s,
    lambda s: s // 2,
    lambda s: s * s + 2 * s,
    lambda s: 4 * (s // 3),
]
OTHERS: list[Make] = [lambda s: s + 2, lambda s: s // 4, lambda s: s // 3, lambda s: s + s // 4]


@pytest.mark.parametrize("make", MULTIPLES)
def test_what_follows_from_a_guard_is_proved(make: Make) -> None:
    s = backed(24)
    guard_bool(s % 8 == 0)
    guards = len(s.node.shape_env.guards)
    found = decide(make(s), 4, "prove")
    assert not found.refused and not found.guarded
    assert len(s.node.shape_env.guards) == guards


@pytest.mark.parametrize("make", OTHERS)
def test_what_does_not_follow_is_not(make: Make) -> None:
    s = backed(24)
    guard_bool(s % 8 == 0)
    assert "not proved" in decide(make(s), 4, "prove").refused


def test_nothing_follows_from_nothing() -> None:
    assert "not proved" in decide(backed(24), 4, "prove").refused


def test_facts_count_together() -> None:
    s = backed(24)
    guard_bool(s % 2 == 0)
    guard_bool(s % 3 == 0)
    assert not decide(s, 6, "prove").refused
    assert decide(s, 4, "prove").refused


def test_a_size_without_an_example_is_proved_by_what_was_checked() -> None:
    u = ShapeEnv().create_unbacked_symint()
    torch._check(u >= 0)
    assert "have no example value" in decide(u, 4, "guard").refused
    torch._check(u % 8 == 0)
    assert not decide(u, 4, "guard").refused
    assert not decide(2 * u, 16, "prove").refused


def test_a_view_of_whole_samples_tells_what_its_rows_are_multiples_of() -> None:
    """``view(-1, 4, f)`` holds only of a multiple of 4 rows, and so torch reckons from then on."""
    s = backed(24)
    with FakeTensorMode(shape_env=s.node.shape_env):
        x = torch.empty(s, 6)
        samples = x.view(-1, 4, 6)
        back = samples.view(-1, 6)
    for rows in (s, x.shape[0], samples.shape[0] * 4, back.shape[0]):
        assert not decide(rows, 4, "prove").refused
        assert decide(rows, 8, "prove").refused
    assert decide(samples.shape[0], 4, "prove").refused


def test_a_frozen_environment_still_proves() -> None:
    s = backed(24)
    guard_bool(s % 8 == 0)
    s.node.shape_env.freeze()
    assert not decide(s, 4, "guard").refused
    assert "takes none any more" in decide(s, 16, "guard").refused


def test_a_symbolic_number_is_too_few_by_its_range() -> None:
    s = backed(24)
    config = SequenceParallelConfig(min_token_num=64)
    assert too_few(s, config) == ""
    guard_bool(s < 60)
    assert too_few(s, config) == f"{s} tokens are fewer than 64 (min_token_num=64)"
    assert too_few(2 * s, config) == ""
    capped = SequenceParallelConfig(min_token_num=64, max_num_batched_tokens=32)
    assert too_few(s, capped) == ""
