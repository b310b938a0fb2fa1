"""Patterns written back as Python trace to themselves."""

from __future__ import annotations

import pytest
import torch

from spfast import patterns
from spfast.patterns import Rows, Value, describe, either, ops, trace


@pytest.mark.parametrize("dialect", ["vllm_ir", "vllm_custom_ops", "functional"])
def test_every_registered_pattern_traces_back_to_itself(dialect: str) -> None:
    names = {name: getattr(patterns, name) for name in patterns.__all__} | {"torch": torch}
    source = patterns.default_registry().describe([dialect])
    found = []
    for text in source.split("\n\n\n"):
        scope = dict(names)
        exec(text, scope)
        title = text.splitlines()[0].removeprefix("# rule ")
        rule, _, rest = title.partition(", priority ")
        priority, _, quantises = rest.partition(", ")
        pattern = trace(scope[rule], rule, int(priority), quantises=bool(quantises))
        found.append(pattern)
    assert tuple(found) == patterns.default_registry().variants([dialect])


def test_the_text() -> None:
    def norm(x: Value, residual: Rows, weight: Value) -> tuple[Value, Value]:
        total = ops.aten.add.Tensor(residual, x)
        both = ops.mylib.norm(total, [weight], mode="fast")
        square = either(
            ops.aten.pow.Tensor_Scalar(both[0], 2), ops.aten.mul.Tensor(both[0], both[0])
        )
        return square, total

    assert describe(trace(norm, "norm")) == (
        "def norm(reduced, residual: Rows, weight):\n"
        "    a = ops.aten.add.Tensor(residual, reduced)\n"
        "    b = ops.mylib.norm.default(a, [weight], mode='fast')\n"
        "    c = b[0]\n"
        "    d = either(ops.aten.pow.Tensor_Scalar(c, 2), ops.aten.mul.Tensor(c, c))\n"
        "    return d"
    )
