"""A function that is no pattern is refused, in a sentence that names it and says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from spfast.errors import PatternError
from spfast.patterns import (
    Captures,
    Dialect,
    Registry,
    Value,
    default,
    either,
    functionalized,
    one_of,
    ops,
    trace,
)
from spfast.patterns.tracing import trace_variants
from spfast.run.rules import rules_of


def both_used(x: Value) -> Value:
    a, b = ops.aten.relu(x), ops.aten.neg(x)
    either(a, b)
    return ops.aten.relu(b)


def two_patterns(x: Value) -> Value:
    other: list[Value] = []
    trace(lambda y: other.append(y) or ops.aten.relu(y), "other")  # type: ignore[func-returns-value]
    return ops.aten.add.Tensor(x, other[0])


def dead(x: Value) -> Value:
    ops.aten.neg(x)
    return ops.aten.relu(x)


def unpacks(x: Value) -> Any:
    a, b = ops.mylib.pair(x)
    return a, b


def two_roles(x: Value, c: Captures) -> Value:
    return ops.mylib.op(x, c.y, c.rows("y"))


DEPENDS = "so it depends on data: a pattern only calls operators, whatever their results are"

WIDE = "a number of {} bits is no constant that a pattern can hold, for it does not fit 64"
NO_CONSTANTS: list[tuple[Any, str]] = [
    (object, "<class 'object'> is no constant that a pattern can hold"),
    (1j, "1j is no constant that a pattern can hold"),
    (b"sum", "b'sum' is no constant that a pattern can hold"),
    (2**63, WIDE.format(64)),
    (-(2**63) - 1, WIDE.format(64)),
    (10**5000, WIDE.format(16610)),
    (math.nan, "nan is no constant that a pattern can hold, for it equals nothing"),
    ("\ud800", "'\\ud800' is no constant that a pattern can hold, for it is no text"),
]


def _holding(constant: Any) -> Callable[..., Any]:
    """A pattern that holds a constant deep in an argument that has others."""
    return lambda x: ops.mylib.op(x, one_of(1, [0, [constant]]), default(None))


ERRORS: list[tuple[Callable[..., Any], str]] = [
    (lambda x: ops.aten.relu(x) if x else x, f"it takes the truth of a value, {DEPENDS}"),
    (unpacks, f"it unpacks or loops over a value, {DEPENDS}"),
    (lambda x: [y for y in x], f"it unpacks or loops over a value, {DEPENDS}"),  # noqa: C416
    (lambda x: len(x), f"it unpacks or loops over a value, {DEPENDS}"),
    (lambda x: x > 0, f"it compares values, {DEPENDS}"),
    (lambda x: x == 0, f"it compares values, {DEPENDS}"),
    (lambda x: float(x), f"it turns a value into a number, {DEPENDS}"),
    (lambda x: x + 1, "it writes '+' on values: call ops.aten.add.Tensor(a, b) instead"),
    (lambda x: 2 * x, "it writes '*' on values: call ops.aten.mul.Tensor(a, b) instead"),
    (lambda x: -x, "it writes '-' on values: call ops.aten.neg.default(a) instead"),
    (
        lambda x: ops.aten.relu(x.shape),
        "it reads .shape of a value, which is not known before a graph is seen: "
        "capture it as a parameter",
    ),
    (
        lambda x: torch.nn.functional.relu(x),
        "is no operator: call an overload from torch.ops or ops",
    ),
    (lambda x: ops.aten.relu(1.0), "aten.relu.default reads no value of the pattern"),
    (two_patterns, "aten.add.Tensor reads values of two patterns"),
    (lambda x: ops.aten(x), "'ops.aten' names no operator yet"),
    (
        lambda x: ops.aten.add.Tensor.more(x),
        "'aten.add.Tensor.more' is no operator's name: ops.NAMESPACE.NAME.OVERLOAD",
    ),
    (lambda x: ops.aten.add.Tensor(x), "aten.add.Tensor lacks its argument 'other'"),
    (lambda x: ops.aten.add.Tensor(x, x, 1), "aten.add.Tensor takes 2 positional arguments, not 3"),
    (lambda x: ops.aten.rsqrt(x, eps=1), "aten.rsqrt.default has no argument 'eps'"),
    (lambda x: ops.aten.rsqrt(x, self=x), "aten.rsqrt.default is given its argument 'self' twice"),
    *(
        (_holding(constant), f"{shown}: capture it as a parameter")
        for constant, shown in NO_CONSTANTS
    ),
    (lambda x: None, "it returns no value: return what a rewrite keeps, one or a tuple"),
    (lambda x: x, "it calls no operator"),
    (dead, "it calls aten.neg.default and never uses the result"),
    (lambda x: x[0], "it takes an item of a value that is a single tensor"),
    (
        lambda x: ops.mylib.pair(x)[-1],
        "it takes item -1 of a value: give a number from 0 on",
    ),
    (
        lambda x: ops.mylib.pair(x)["out"],
        "it asks for what was written to 'out': it writes nothing",
    ),
    (lambda: 0, "it takes no parameter: the first stands for the reduced value"),
    (lambda x, *rest: x, "its parameter '*rest' takes any number: name each"),
    (lambda x, eps=1e-6: x, "its parameter 'eps' has a default: remove it"),
    (lambda x: 1 // 0, "its function raised ZeroDivisionError: integer division or modulo by zero"),
    (two_roles, "it captures 'y' as replicated and as rows"),
    (lambda x: either(x), "either() takes the results of operators of its own pattern"),
    (lambda x: either(), "either() takes the results of operators"),
    (
        lambda x, y: either(ops.aten.neg(x), ops.aten.neg(y)),
        "either() of aten.neg.default: they read different values",
    ),
    (
        lambda x: (lambda a: either(a, ops.aten.neg(a)))(ops.aten.relu(x)),
        "either() takes results that nothing else has read",
    ),
    (
        lambda x: (lambda a: either(a, a))(ops.aten.relu(x)),
        "either() is given the same result twice",
    ),
    (both_used, "it uses an alternative of an either(): use the result of either()"),
    (
        lambda x: either(ops.aten.neg(x), ops.mylib.op(x, one_of(1, 2))),
        "either() of mylib.op.default and others: one_of() and last_dim must stand in every "
        "alternative",
    ),
    (
        lambda x: functionalized(ops.mylib.op, ["out"], input=x),
        "mylib.op.default writes to 'out', which is given no value",
    ),
]


@pytest.mark.parametrize(
    "constant",
    [2**63 - 1, -(2**63), math.inf, -math.inf, -0.0, 1e400, "\U0001f600", True, [], None],
)
def test_what_a_graph_holds_a_pattern_holds_too(constant: Any) -> None:
    registry = Registry()
    registry.add_dialect(Dialect("mine"))
    registry.register("rule", dialect="mine")(_holding(constant))
    assert len(rules_of(registry)) == 1


@pytest.mark.parametrize(("function", "message"), ERRORS)
def test_errors_name_the_pattern_and_say_why(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(PatternError) as caught:
        trace(function, "mine")
    text = str(caught.value)
    assert text.startswith("pattern 'mine': ")
    if message.startswith("is no operator"):
        assert text.endswith(message)  # in front of it stands torch's own repr
    else:
        assert text == f"pattern 'mine': {message}"


def test_an_unused_parameter_is_refused() -> None:
    with pytest.raises(PatternError) as caught:
        trace_variants(lambda x, weight: ops.aten.relu(x), "mine")
    assert str(caught.value) == ("pattern 'mine': its parameter 'weight' is never used: remove it")
