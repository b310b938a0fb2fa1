"""What operators are to the core: who writes to what."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

from spfast.errors import GraphError
from spfast.fxgraph.targets import Operator, describe, find, resolve, target_name

aten = torch.ops.aten

library = torch.library.Library("spfast_targets_test", "FRAGMENT")
library.define("second(Tensor x, Tensor(a) y) -> Tensor(a)")
returns_second = torch.ops.spfast_targets_test.second.default


def stranger(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("target", "effects"),
    [
        (aten.add.Tensor, {}),
        (aten.add_.Tensor, {"writes": (0,)}),
        (aten.copy_.default, {"writes": (0,)}),
        (aten.add.out, {"writes_keywords": True}),
        (aten.transpose.int, {"aliases": True}),
        (returns_second, {"writes": (1,)}),
        (operator.getitem, {}),
        (operator.iadd, {"writes": (0,)}),
        (operator.setitem, {"writes": (0,)}),
        (torch.relu_, {"writes": (0,)}),
        (torch.relu, {}),
        (torch.ops.higher_order.auto_functionalized, {"wraps": True}),
        (torch.ops.higher_order.cond, {}),
        (torch.ops.higher_order.with_effects, {"writes_anything": True, "fences": True}),
        (stranger, {"writes_anything": True, "fences": True}),
    ],
)
def test_effects(target: Any, effects: dict[str, Any]) -> None:
    lasts = isinstance(target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator))
    assert describe(target) == Operator(target_name(target), **effects, lasts=lasts)


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
