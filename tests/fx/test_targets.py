"""What operators are to the core: who writes to what."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

from spfast.errors import GraphError
from spfast.targets import (
    ALIASES,
    FENCE,
    MUTATES,
    WRITES_ANYTHING,
    WRITES_KEYWORDS,
    describe,
    find,
    resolve,
    target_name,
)

aten = torch.ops.aten

library = torch.library.Library("spfast_targets_test", "FRAGMENT")
library.define("second(Tensor x, Tensor(a) y) -> Tensor(a)")
returns_second = torch.ops.spfast_targets_test.second.default


def stranger(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("target", "flags", "writes"),
    [
        (aten.add.Tensor, 0, 0),
        (aten.add_.Tensor, MUTATES, 1),
        (aten.copy_.default, MUTATES, 1),
        (aten.add.out, MUTATES, WRITES_KEYWORDS),
        (aten.transpose.int, ALIASES, 0),
        (returns_second, MUTATES, 2),
        (operator.getitem, 0, 0),
        (operator.iadd, MUTATES, 1),
        (operator.setitem, MUTATES, 1),
        (torch.relu_, MUTATES, 1),
        (torch.relu, 0, 0),
        (torch.ops.higher_order.auto_functionalized, 0, 0),
        (torch.ops.higher_order.cond, 0, 0),
        (torch.ops.higher_order.with_effects, MUTATES | FENCE, WRITES_ANYTHING),
        (stranger, MUTATES | FENCE, WRITES_ANYTHING),
    ],
)
def test_effects(target: Any, flags: int, writes: int) -> None:
    assert describe(target)[1:3] == (flags, writes)


@pytest.mark.parametrize(
    "target",
    [aten.add.Tensor, operator.getitem, operator.mul, torch.ops.higher_order.auto_functionalized],
)
def test_names_lead_back(target: Any) -> None:
    assert resolve(target_name(target)) is target


def test_unknown_operator() -> None:
    assert find("nobody.knows.default") is None
    with pytest.raises(GraphError) as error:
        resolve("nobody.knows.default")
    assert str(error.value) == (
        "operator 'nobody.knows.default' is not registered: import the library that registers it, "
        "or call spfast.testing.ops.declare() for a stand-in"
    )


def test_names_import_nothing_new() -> None:
    import sys

    assert "antigravity" not in sys.modules
    assert find("antigravity.fly") is None
    assert "antigravity" not in sys.modules
