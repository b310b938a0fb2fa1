"""What the verifier knows of operators by itself covers what the planner knows of them."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from spfast.fxgraph.targets import find, may_return_operand
from spfast.patterns import default_registry
from spfast.verifier.effects import shared_operand
from spfast.verifier.kinds import IDENTITIES, LIKE, VIEWS, is_elementwise, operator_name

POINTWISE = [rule.op for rule in default_registry().rowwise() if rule.family == "pointwise"]


def test_there_are_many() -> None:
    assert len(POINTWISE) > 100


@pytest.mark.parametrize("name", POINTWISE)
def test_a_pointwise_operator_is_elementwise(name: str) -> None:
    target = find(name)
    if target is not None:
        known = IDENTITIES | LIKE | VIEWS
        assert is_elementwise(target) or operator_name(target) in known


def _silent_operators() -> list[torch._ops.OpOverload]:
    """torch's operators whose schemas say nothing of shared memory."""
    found = []
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        if space in ("_c10d_functional", "aten", "prims"):
            target = find(f"{space}.{name}.{schema.overload_name or 'default'}")
            if isinstance(target, torch._ops.OpOverload):
                found.append(target)
    return [
        target
        for target in found
        if not any(argument.alias_info for argument in target._schema.arguments)
    ]


def test_what_returns_its_operand_is_the_same_to_planner_and_verifier() -> None:
    operators = _silent_operators()
    operand = fx.Graph().placeholder("x")

    def shares(target: torch._ops.OpOverload) -> bool:
        return shared_operand(target, (operand,) * len(target._schema.arguments), {}) is not None

    planner = {str(target) for target in operators if may_return_operand(target)}
    verifier = {str(target) for target in operators if shares(target)}
    assert len(planner) > 40
    assert {"aten.type_as.default", "aten.dropout.default"} <= planner
    assert "aten.add.Tensor" not in planner
    assert planner == verifier, {
        "known to the planner alone": sorted(planner - verifier),
        "known to the verifier alone": sorted(verifier - planner),
    }
