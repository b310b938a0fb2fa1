"""What a compiled model takes on trust, asked of real ranks: true, false, and ranks that fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_reduce

from spfast import ConfigError, RankMismatchError, SequenceParallelConfig
from spfast.testing import assumptions, check_assumptions, run_ranks
from spfast.testing.checksums import SAMPLES, checksum
from spfast.testing.rendezvous import PeerEnded, Rendezvous

Inputs = dict[str, torch.Tensor]
CONFIG = SequenceParallelConfig()


def layer(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    hidden = all_reduce(x, "sum", dist.group.WORLD) + residual
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * weight


def inputs(rank: int, **local: bool) -> Inputs:
    """Inputs of this rank; those named differ from the other ranks'."""
    found = {}
    for name, shape in {"x": (8, 16), "residual": (8, 16), "weight": (16,)}.items():
        differs = name == "x" or local.get(name, False)
        generator = torch.Generator().manual_seed(len(name) + (100 * rank if differs else 0))
        found[name] = torch.randn(shape, generator=generator)
    return found


def outcome(step: Callable[..., Any], given: Inputs, **options: Any) -> str:
    try:
        return str(check_assumptions(step, **given, config=CONFIG, **options))
    except (RankMismatchError, ConfigError) as error:
        return f"{type(error).__name__}: {error}"


def on_two(rank: int, size: int) -> dict[str, str]:
    last = rank == size - 1
    compiled = torch.compile(layer, fullgraph=True)
    unweighted = torch.compile(lambda x, residual, weight: layer(x, residual, torch.ones(16)))

    def halfway(**given: torch.Tensor) -> Any:
        result = compiled(**given)
        if last:
            raise KeyError("halfway")
        return compiled(result, given["residual"], given["weight"])

    def once_more(**given: torch.Tensor) -> Any:
        return compiled(compiled(**given), **given) if last else compiled(**given)

    expected = compiled(**inputs(rank))
    found = {
        "residual": outcome(compiled, inputs(rank, residual=True)),
        "halfway": outcome(halfway, inputs(rank)),
        "once more": outcome(once_more, inputs(rank)),
        "fewer": outcome(unweighted if last else compiled, inputs(rank)),
        "uncompiled": outcome(layer, inputs(rank)),
    }
    # The model is as it was, and compiles again as it did.
    assert torch.equal(compiled(**inputs(rank)), expected)
    return found


def on_four(rank: int, size: int) -> dict[str, str]:
    compiled = torch.compile(layer, fullgraph=True)
    return {
        "true": outcome(compiled, inputs(rank)),
        "weight": outcome(compiled, inputs(rank, weight=rank == size - 1)),
    }


FIX = (
    " of its root mean square: name the inputs that are the same in "
    "SequenceParallelConfig(replicated=[...]), and only what follows from them is used"
)


def test_on_two_gloo_ranks_all_say_the_same_and_none_waits_for_the_other() -> None:
    results = run_ranks(on_two, 2, timeout=240)
    first = results[0]
    assert results == [first, first]
    assert first["residual"].startswith(
        "RankMismatchError: arg1_1 in graph 0 is taken to be the same on every rank, but it "
        "differs between rank 0 and rank 1, by up to "
    )
    assert first["residual"].endswith(FIX)
    ended = "RankMismatchError: rank {} did not end the step, so nothing was compared: "
    assert first["halfway"] == ended.format(1) + "KeyError: 'halfway'"
    assert first["once more"].startswith(ended.format(1))
    assert first["fewer"] == (
        "RankMismatchError: the ranks take other values on trust: rank 0 takes arg2_1 in graph 0, "
        "where rank 1 takes no further value: ask check_ranks_agree which graphs differ"
    )
    assert first["uncompiled"].startswith("ConfigError: no graph was compiled with the pass")


def test_on_four_gloo_ranks() -> None:
    results = run_ranks(on_four, 4, timeout=240)
    first = results[0]
    assert results == [first] * 4
    assert first["true"] == (
        "2 values taken on trust in 1 graphs are the same on the ranks that share them (4 ranks)"
    )
    assert first["weight"].startswith(
        "RankMismatchError: arg2_1 in graph 0 is taken to be the same on every rank, but it "
        "differs between rank 0 and rank 3, by up to "
    )


# --- what the ranks said ---


def said(*values: tuple[str, torch.Tensor], ranks: tuple[int, ...] = (0, 1)) -> Any:
    kept = [
        assumptions._Value(
            label,
            ranks,
            int((sums := checksum(value))[0]),
            sums[1:].to(torch.int32).view(torch.float32),
        )
        for label, value in values
    ]
    return assumptions._Summary(tuple(kept), "", True)


def test_values_that_differ_by_rounding_are_the_same_within_a_tolerance() -> None:
    value = torch.randn(64, 32)
    heard = {0: said(("h", value)), 1: said(("h", value * (1 + 1e-6)))}
    assumptions._raise_first(heard, 1e-3, None)
    for tolerance in (0.0, 1e-9):
        with pytest.raises(RankMismatchError, match="by up to .*e-06 of its root mean square"):
            assumptions._raise_first(heard, tolerance, None)
    nothing = {0: said(("h", value * 0)), 1: said(("h", value))}
    with pytest.raises(RankMismatchError, match="h is taken to be the same"):
        assumptions._raise_first(nothing, 1e-3, None)
    nan = {0: said(("h", value * float("nan"))), 1: said(("h", value))}
    with pytest.raises(RankMismatchError, match="by up to inf"):
        assumptions._raise_first(nan, 1e-3, None)


def test_values_are_compared_among_the_ranks_that_share_them() -> None:
    one, other = torch.ones(4), torch.zeros(4)
    heard = {
        0: said(("h", one), ranks=(0, 1)),
        1: said(("h", one), ranks=(0, 1)),
        2: said(("h", other), ranks=(2, 3)),
        3: said(("h", other), ranks=(2, 3)),
    }
    assumptions._raise_first(heard, 0.0, None)
    heard[3] = said(("h", one), ranks=(2, 3))
    with pytest.raises(RankMismatchError, match="differs between rank 2 and rank 3"):
        assumptions._raise_first(heard, 0.0, None)


def test_without_ranks_it_says_so() -> None:
    with pytest.raises(ConfigError, match=r"torch.distributed is not initialised, so there is no"):
        check_assumptions(layer)


# --- checksums ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_checksum_tells_bits_apart(dtype: torch.dtype) -> None:
    value = torch.arange(300).reshape(30, 10).to(dtype)
    assert torch.equal(checksum(value), checksum(value.clone()))
    assert torch.equal(checksum(value), checksum(value.t().contiguous().t()))
    assert len(checksum(value)) == 1 + SAMPLES
    for place in (0, 7, 299):
        changed = value.clone().reshape(-1)
        changed[place] = 0 if changed[place] else 1
        assert checksum(changed)[0] != checksum(value)[0]
    if dtype is not torch.bool:
        swapped = value.clone()
        swapped[[3, 4]] = swapped[[4, 3]]
        assert checksum(swapped)[0] != checksum(value)[0]


def test_checksums_of_nothing_and_of_much() -> None:
    assert not checksum(torch.empty(0, 8)).any()
    much = torch.zeros(3_000_000)
    other = much.clone()
    other[-1] = 1e-9
    assert checksum(much)[0] != checksum(other)[0]


# --- meeting without a collective ---


def pair(timeout: float = 5.0) -> list[Rendezvous]:
    store = dist.HashStore()
    return [Rendezvous(store, "test", rank, [0, 1], timeout) for rank in (0, 1)]


def test_a_gate_opens_when_all_are_there_and_gives_way_when_one_has_ended() -> None:
    left, right = pair()
    right._store.set("1/tp/0", "here")
    left.gate("tp", [0, 1])
    right._store.set("1/end", "whatever")
    with pytest.raises(PeerEnded, match="rank 1 has ended before the collective that is due"):
        left.gate("tp", [0, 1])
    left.gate("dp", [0])


def test_a_rank_that_never_comes_is_given_up() -> None:
    left, _ = pair(timeout=0.1)
    started = time.monotonic()
    with pytest.raises(RankMismatchError, match=r"rank 1 did not come within 0\.1 seconds"):
        left.exchange("said")
    with pytest.raises(PeerEnded, match=r"rank 1 did not come within 0\.1 seconds"):
        left.gate("tp", [0, 1])
    assert time.monotonic() - started < 5
