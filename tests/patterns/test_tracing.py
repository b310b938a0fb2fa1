"""What pattern functions become, and what they are told when they are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spfast.patterns import (
    Buffer,
    Captures,
    Rows,
    Value,
    default,
    either,
    functionalized,
    last_dim,
    one_of,
    ops,
    trace,
)
from spfast.patterns.model import Fixed, Form, Literal, Location, Operand, Operation, Parameter
from spfast.patterns.tracing import trace_variants

REDUCED = Operand("operation", 0)


def only(function: Callable[..., Any]) -> Operation:
    """The one operation of a pattern."""
    _, operation = trace(function, "rule").operations
    return operation


def constant(tag: Any, value: Any) -> Operand:
    return Operand("literal", literals=(Literal(tag, value),))


# --- arguments ------------------------------------------------------------------------------------


def test_an_unknown_operator_is_matched_as_it_is_written() -> None:
    operation = only(lambda x, w: ops.mylib.norm(x, w, 1e-6, mode="fast"))
    where = (Location(0), Location(1), Location(2), Location(keyword="mode"))
    assert operation.forms == (Form("mylib.norm.default", where),)
    weight = Operand("parameter", 0)
    assert operation.operands == (
        REDUCED,
        weight,
        constant("float", 1e-6),
        constant("string", "fast"),
    )


def test_a_known_operator_takes_arguments_by_position_or_name() -> None:
    by_position = only(lambda x: ops.prims.convert_element_type(x, torch.float32))
    by_name = only(lambda x: ops.prims.convert_element_type(dtype=torch.float32, a=x))
    assert by_position == by_name
    assert by_position.forms[0].where == (Location(0, "a"), Location(1, "dtype"))
    assert by_position.operands[1] == constant("dtype", "torch.float32")


def test_what_a_known_operator_is_not_given_is_absent_or_its_default() -> None:
    (form,) = only(lambda x, y: ops.aten.add.Tensor(x, y)).forms
    assert form.fixed == (Fixed(Location(keyword="alpha"), Literal("int", 1)),)
    (form,) = only(lambda x, y: ops.aten.add.Tensor(x, y, alpha=2)).forms
    assert form.fixed == ()


def test_defaults_of_unknown_operators_are_declared_in_place() -> None:
    operation = only(lambda x: ops.mylib.norm(x, default(None), size=default(-1)))
    assert operation.operands == (REDUCED,)
    assert operation.forms[0].fixed == (
        Fixed(Location(1), Literal("none")),
        Fixed(Location(keyword="size"), Literal("int", -1)),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Literal("none")),
        (True, Literal("bool", True)),
        (3, Literal("int", 3)),
        (0.5, Literal("float", 0.5)),
        ("sum", Literal("string", "sum")),
        (torch.float8_e4m3fn, Literal("dtype", "torch.float8_e4m3fn")),
        (torch.device("cuda:1"), Literal("device", "cuda:1")),
        (torch.strided, Literal("const", "torch.strided")),
        (torch.channels_last, Literal("const", "torch.channels_last")),
        ([1, -1], Literal("list", None, (Literal("int", 1), Literal("int", -1)))),
        ((), Literal("list")),
        (last_dim, Literal("last_dim")),
    ],
)
def test_constants(value: Any, expected: Literal) -> None:
    operation = only(lambda x: ops.mylib.op(x, value))
    assert operation.operands[1] == Operand("literal", literals=(expected,))


def test_one_of_several_constants() -> None:
    operation = only(lambda x: ops.mylib.op(x, one_of(1, None)))
    assert operation.operands[1].literals == (Literal("int", 1), Literal("none"))


def test_a_list_of_values_has_just_that_length() -> None:
    (form,) = only(lambda x, n: ops.mylib.op(x, [n, x])).forms
    assert form.where == (Location(0), Location(1, item=0), Location(1, item=1))
    assert form.fixed == (Fixed(Location(1, item=2), Literal("none")),)


def test_torch_operators_may_be_called_directly() -> None:
    direct = only(lambda x, y: torch.ops.aten.add.Tensor(x, y))
    assert direct == only(lambda x, y: ops.aten.add.Tensor(x, y))


def test_sums_and_products_commute() -> None:
    assert only(lambda x, y: ops.aten.mul.Tensor(x, y)).commutative
    assert not only(lambda x, y: ops.aten.div.Tensor(x, y)).commutative
    assert not only(lambda x: ops.aten.mul.Tensor(x, x)).commutative


# --- parameters -----------------------------------------------------------------------------------


def test_roles_come_from_annotations() -> None:
    def function(x: Value, residual: Rows, out: Buffer, weight: Value, scale) -> Value:  # type: ignore[no-untyped-def]
        return ops.mylib.op(x, residual, out, weight, scale)

    assert trace(function, "rule").parameters == (
        Parameter("residual", "rows"),
        Parameter("out", "buffer"),
        Parameter("weight", "replicated"),
        Parameter("scale", "replicated"),
    )


def test_captures_are_parameters_at_their_first_use() -> None:
    def function(x: Value, first: Value, c: Captures) -> Value:
        return ops.mylib.op(x, c.weight, c.rows("residual"), c.buffer("out"), c.weight, first)

    pattern = trace(function, "rule")
    assert [each.name for each in pattern.parameters] == ["first", "weight", "residual", "out"]
    assert [each.role for each in pattern.parameters[2:]] == ["rows", "buffer"]


def test_variants_are_traced_once_for_each_combination() -> None:
    def function(x: Value, weight: Value, *, op: Any, twice: bool) -> Value:
        return op(op(x, weight), weight) if twice else op(x, weight)

    variants = {"op": [ops.aten.mul.Tensor, ops.aten.div.Tensor], "twice": [False, True]}
    patterns = trace_variants(function, "rule", variants=variants)
    assert [len(pattern.operations) for pattern in patterns] == [2, 3, 2, 3]


# --- results --------------------------------------------------------------------------------------


def test_items_that_are_only_returned_need_not_be_there() -> None:
    def function(x: Value) -> tuple[Value, Value]:
        both = ops.mylib.pair(x)
        return ops.aten.relu(both[0]), both[1]

    targets = [each.forms[0].target for each in trace(function, "rule").operations[1:]]
    assert targets == ["mylib.pair.default", "_operator.getitem", "aten.relu.default"]


def test_an_item_taken_twice_is_one_operation() -> None:
    def function(x: Value) -> Value:
        both = ops.mylib.pair(x)
        return ops.aten.mul.Tensor(both[0], both[0])

    assert len(trace(function, "rule").operations) == 4


# --- either ---------------------------------------------------------------------------------------


def test_either_of_two_operators_with_their_own_places() -> None:
    operation = only(
        lambda x: either(
            ops.prims.convert_element_type(x, torch.float32),
            ops.aten._to_copy(x, dtype=torch.float32),
        )
    )
    assert operation.operands == (REDUCED, constant("dtype", "torch.float32"))
    assert [form.where for form in operation.forms] == [
        (Location(0, "a"), Location(1, "dtype")),
        (Location(0, "self"), Location(keyword="dtype")),
    ]


def test_a_constant_of_one_alternative_alone_is_required_there() -> None:
    operation = only(lambda x: either(ops.aten.pow.Tensor_Scalar(x, 2), ops.aten.mul.Tensor(x, x)))
    power, product = operation.forms
    assert operation.operands == (REDUCED, REDUCED)
    assert power.where == (Location(0, "self"), Location(0, "self"))
    assert power.fixed == (Fixed(Location(1, "exponent"), Literal("int", 2), required=True),)
    assert product.where == (Location(0, "self"), Location(1, "other"))


def test_commuting_beside_not_commuting_is_written_both_ways() -> None:
    operation = only(lambda x, s: either(ops.aten.mul.Tensor(x, s), ops.aten.div.Tensor(x, s)))
    assert not operation.commutative
    straight, exchanged = (Location(0, "self"), Location(1, "other")), None
    exchanged = tuple(reversed(straight))
    assert [(form.target, form.where) for form in operation.forms] == [
        ("aten.mul.Tensor", straight),
        ("aten.mul.Tensor", exchanged),
        ("aten.div.Tensor", straight),
    ]


def test_alternatives_that_all_commute_stay_commutative() -> None:
    operation = only(lambda x, y: either(ops.aten.add.Tensor(x, y), ops.aten.add.Scalar(x, y)))
    assert operation.commutative
    assert len(operation.forms) == 2


# --- functionalized -------------------------------------------------------------------------------


def test_both_versions_of_auto_functionalized() -> None:
    def function(x: Value, residual: Rows, weight: Value) -> tuple[Value, Value]:
        call = functionalized(
            ops.mylib.add_norm,
            ["input", "residual"],
            input=x,
            residual=residual,
            weight=weight,
            size=default(None),
        )
        return ops.aten.relu(call["input"]), call["residual"]

    pattern = trace(function, "rule")
    first, second = pattern.operations[1].forms
    assert first.target == "higher_order.auto_functionalized[mylib.add_norm.default]"
    assert first.where[:3] == tuple(
        Location(keyword=name) for name in ("input", "residual", "weight")
    )
    assert second.target == "higher_order.auto_functionalized_v2[mylib.add_norm.default]"
    assert second.where[:2] == tuple(Location(keyword="_all_bases", item=i) for i in (0, 1))
    assert Fixed(Location(keyword="_residual_base_index"), Literal("int", 1), True) in second.fixed
    assert Fixed(Location(keyword="_all_bases", item=2), Literal("none")) in second.fixed
    assert Fixed(Location(keyword="size"), Literal("none")) in second.fixed
    # What was written to the first argument is item 1 of the call's result.
    assert pattern.operations[2].operands == (Operand("operation", 1), constant("int", 1))
