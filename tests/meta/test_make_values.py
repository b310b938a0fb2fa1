"""Values made without running an operator are what FakeTensorMode would have made."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from spfast._core import Form, ValueSpec, ValueSpecs
from spfast.fxgraph.meta import TokenShare, make_values
from spfast.testing.builder import TOKENS, GraphBuilder

FORMS = (Form.LOCAL, Form.LOCAL, Form.GATHERED, Form.FLAT, Form.SAME)


def norm_input(dynamic: bool) -> tuple[GraphBuilder, fx.Node]:
    build = GraphBuilder(16, dynamic)
    shape = (TOKENS if dynamic else 16, 64)
    return build, build.placeholder("x", shape, torch.bfloat16)


@pytest.mark.parametrize("dynamic", [False, True])
def test_same_state_as_the_constructor_gives(dynamic: bool) -> None:
    build, node = norm_input(dynamic)
    share = TokenShare.of(build.tokens, 4)
    specs = [ValueSpec(Form.LOCAL, node, kind=0)] * 3
    values = make_values(ValueSpecs(specs), [share]).created
    with build.mode:
        expected = torch.empty((share.local, 64), dtype=torch.bfloat16)
    for value in values:
        assert isinstance(value, FakeTensor)
        assert vars(value).keys() == vars(expected).keys()
        for name, state in vars(expected).items():
            if "epoch" not in name:
                assert vars(value)[name] is state or vars(value)[name] == state, name
        assert str(value.shape) == str(expected.shape)
        assert str(value.stride()) == str(expected.stride())
        assert value.dtype == expected.dtype and value.device == expected.device
        assert value.is_contiguous()


def test_no_fake_tensor_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since torch 2.14 that asks its mode, which a tensor that is half made does not have."""
    moved = []
    move = torch._functionalize_unsafe_set

    def watched(tensor: torch.Tensor, other: torch.Tensor) -> None:
        moved.append(type(tensor))
        move(tensor, other)

    monkeypatch.setattr(torch, "_functionalize_unsafe_set", watched)
    build, node = norm_input(dynamic=True)
    make_values(
        ValueSpecs([ValueSpec(Form.LOCAL, node, kind=0)] * 3), [TokenShare.of(build.tokens, 4)]
    )
    assert moved and set(moved) == {torch.Tensor}


@pytest.mark.parametrize("dynamic", [False, True])
def test_each_value_has_a_storage_of_its_own(dynamic: bool) -> None:
    build, node = norm_input(dynamic)
    share = TokenShare.of(build.tokens, 4)
    specs = [ValueSpec(form, node, kind=0) for form in FORMS]
    made = make_values(ValueSpecs(specs, specs), [share])
    created, resized = made.created, made.resized
    storages = {value.untyped_storage()._cdata for value in [*created, *resized]}
    assert len(storages) == 10
    assert node.meta["val"].untyped_storage()._cdata not in storages
    assert all(value.untyped_storage().nbytes() > 0 for value in created)


def test_gathered_sizes_are_spelled_as_torch_spells_them() -> None:
    build, node = norm_input(dynamic=True)
    share = TokenShare.of(build.tokens, 4)
    (gathered,) = make_values(ValueSpecs([ValueSpec(Form.GATHERED, node, kind=0)]), [share]).created
    assert str(gathered.shape[0]) == f"4*(({build.tokens}//4))"


def test_fake_values_can_be_computed_with() -> None:
    build, node = norm_input(dynamic=True)
    share = TokenShare.of(build.tokens, 4)
    (first, second) = make_values(
        ValueSpecs([ValueSpec(Form.LOCAL, node, kind=0)] * 2), [share]
    ).created
    with build.mode:
        total = first + second
    assert str(total.shape) == str(first.shape)
