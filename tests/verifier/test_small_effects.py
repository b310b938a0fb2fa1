"""Small pairs of graphs: writes, random numbers, and what makes two calls one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import fx
from verifier.pairs import Body, Maker, aten, pair


def test_a_dropped_an_added_and_a_moved_write() -> None:
    def writes(*names: str) -> Body:
        def body(m: Maker) -> fx.Node:
            for name in names:
                m.call(aten.add_.Tensor, m.buffer, getattr(m, name))
            return m.call(aten.relu.default, m.buffer)

        return body

    assert pair(writes("x", "res"), writes("x", "res")) == {}
    found = pair(writes("x", "res"), writes("x"))
    assert found["add__tensor_1"] == "what it does (aten.add_.Tensor) is not done any more"
    found = pair(writes("x"), writes("x", "res"))
    assert "has an effect (aten.add_.Tensor)" in found["add__tensor_1"]
    found = pair(writes("x", "res"), writes("res", "x"))
    assert found["add__tensor"] == "does not do what 'add__tensor' did in its place"


def test_a_value_read_before_instead_of_after_a_write() -> None:
    def read_after(m: Maker) -> fx.Node:
        m.call(aten.add_.Tensor, m.buffer, m.x)
        return m.call(aten.relu.default, m.buffer)

    def read_before(m: Maker) -> fx.Node:
        result = m.call(aten.relu.default, m.buffer)
        m.call(aten.add_.Tensor, m.buffer, m.x)
        return result

    def through_a_view(m: Maker) -> fx.Node:
        view = m.call(aten.view.default, m.buffer, [8, 8])
        m.call(aten.add_.Tensor, m.buffer, m.x)
        return m.call(aten.relu.default, view)

    assert "relu_default" in pair(read_after, read_before)
    assert "relu_default" in pair(read_before, read_after)
    assert pair(read_after, through_a_view) == {}


def _by_keyword(node: fx.Node) -> fx.Node:
    """Gives every operand by its keyword instead of its position."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    node.kwargs = dict(zip(names, node.args, strict=False)) | node.kwargs
    node.args = ()
    return node


def _write(m: Maker) -> None:
    m.call(aten.add_.Tensor, m.buffer, 1.0)


def _write_by_keyword(m: Maker) -> None:
    _by_keyword(m.call(aten.add_.Tensor, m.buffer, 1.0))


def _write_to_a_view_by_keyword(m: Maker) -> None:
    m.call(aten.add_.Tensor, _by_keyword(m.call(aten.view.default, m.buffer, [64])), 1.0)


def _write_to_the_result_of_out(m: Maker) -> None:
    m.call(aten.mul_.Tensor, m.call(aten.add.out, m.x, m.res, out=m.buffer), 2.0)


@pytest.mark.parametrize(
    "write",
    [_write, _write_by_keyword, _write_to_a_view_by_keyword, _write_to_the_result_of_out],
)
def test_a_copy_made_before_a_write_is_another_value(write: Callable[[Maker], None]) -> None:
    def body(m: Maker, read_copy: bool) -> fx.Node:
        copy = m.call(aten.clone.default, m.buffer)
        write(m)
        return m.add(copy if read_copy else m.buffer, m.res)

    assert pair(lambda m: body(m, True), lambda m: body(m, True)) == {}
    assert "add_tensor" in pair(lambda m: body(m, True), lambda m: body(m, False))


def test_rows_of_a_value_that_was_written_in_between() -> None:
    def before(m: Maker) -> fx.Node:
        m.call(aten.add_.Tensor, m.res, m.x)
        return m.norm(m.add(m.reduce(m.x), m.res))

    def after(m: Maker, early: bool) -> fx.Node:
        rows = m.rows(m.res, 4, 8) if early else None
        copied = m.call(aten.clone.default, rows) if rows is not None else None
        m.call(aten.add_.Tensor, m.res, m.x)
        taken = copied if copied is not None else m.rows(m.res, 4, 8)
        return m.gather(m.norm(m.add(m.scatter(m.x), taken)))

    assert pair(before, lambda m: after(m, early=False)) == {}
    assert pair(before, lambda m: after(m, early=True)) != {}


def test_random_numbers_keep_their_order_and_number() -> None:
    def body(m: Maker, *places: int) -> Any:
        drawn = [m.call(aten.rand_like.default, m.x) for _ in range(2)]
        return [drawn[place] for place in places]

    assert pair(lambda m: body(m, 0, 1), lambda m: body(m, 0, 1)) == {}
    assert "output" in pair(lambda m: body(m, 0, 1), lambda m: body(m, 1, 0))


def test_two_calls_of_one_operator_on_one_operand_are_one_value() -> None:
    def twice(m: Maker) -> Any:
        return [m.call(aten.relu.default, m.x), m.call(aten.relu.default, m.x)]

    def once(m: Maker) -> Any:
        node = m.call(aten.relu.default, m.x)
        return [node, node]

    assert pair(twice, once) == {}


def test_literals_are_told_apart_by_type() -> None:
    found = pair(
        lambda m: m.call(aten.mul.Tensor, m.x, 2), lambda m: m.call(aten.mul.Tensor, m.x, 2.0)
    )
    assert found == {"mul_tensor": "has other literals than in the original graph"}


def test_another_constant_in_the_output() -> None:
    assert pair(lambda m: [m.x, 3], lambda m: [m.x, 4]) == {
        "output": "returns 4 as output 1, where it returned 3"
    }
