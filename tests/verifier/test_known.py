"""Whatever the row-wise recogniser takes for pointwise, the verifier takes for elementwise."""

from __future__ import annotations

import pytest

from spfast.fxgraph.targets import find
from spfast.patterns import default_registry
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
