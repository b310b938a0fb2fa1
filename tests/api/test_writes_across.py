"""What a called graph writes to what it is given, its caller and its siblings read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

import spfast

from .test_crossings import Writer, config, made, model, relu, site

aten = torch.ops.aten
Make = Callable[[Writer, fx.Node], fx.Node]


def writing(make: Make, via: Make | None = None) -> fx.GraphModule:
    """A graph that writes what it makes of one input to another one."""
    w = Writer()
    y, buffer = w.stream("y"), w.stream("buffer")
    w.call(aten.copy_.default, via(w, buffer) if via else buffer, make(w, y))
    w.output([w.call(aten.neg.default, y)])
    return fx.GraphModule({}, w.graph)


def received(w: Writer, value: fx.Node) -> fx.Node:
    return w.sent(value)


def as_view(w: Writer, value: fx.Node) -> fx.Node:
    return w.call(aten.view.default, value, [8, 16])


def nested(make: Make) -> fx.GraphModule:
    """A graph that hands its inputs on to the one that writes."""
    w = Writer()
    y, buffer = w.stream("y"), w.stream("buffer")
    w.output([w.piece("inner", y, y, buffer)])
    return fx.GraphModule({"inner": writing(make)}, w.graph)


def zeros(w: Writer) -> fx.Node:
    return w.call(aten.zeros.default, [8, 16])


def read_by_the_caller(first: fx.GraphModule) -> fx.GraphModule:
    """What the caller adds to the reduced value is read from where the piece wrote."""

    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        buffer = zeros(w)
        got = w.piece("first", x, residual, buffer)
        normed = w.norm(w.call(aten.add.Tensor, w.reduced(x), relu(w, buffer)))
        return w.call(aten.add.Tensor, got, normed)

    return model(build, first=first)


def read_by_a_sibling(first: fx.GraphModule) -> fx.GraphModule:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        buffer = zeros(w)
        got = w.piece("first", x, residual, buffer)
        return w.call(aten.add.Tensor, got, w.piece("second", x, x, buffer))

    return model(build, first=first, second=site())


READERS = [read_by_the_caller, read_by_a_sibling]
WRITERS: list[Callable[[Make], fx.GraphModule]] = [
    writing,
    lambda make: writing(make, as_view),
    nested,
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("read", READERS)
def test_what_a_piece_writes_of_its_ranks_own_is_so_where_it_is_read(
    write: Callable[[Make], fx.GraphModule], read: Callable[[fx.GraphModule], fx.GraphModule]
) -> None:
    result = spfast.apply(read(write(received)), config(validate=True))
    assert int(result) == 0
    said = "is this rank's own, as a graph that calls this one or that this one calls shows"
    assert all(said in each.reason for each in result.skipped)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("read", READERS)
def test_what_a_piece_writes_of_what_nobody_knows_is_taken_on_trust(
    write: Callable[[Make], fx.GraphModule], read: Callable[[fx.GraphModule], fx.GraphModule]
) -> None:
    result = spfast.apply(read(write(relu)), config(validate=True))
    assert int(result) == 1
    assert {each.value for each in result.assumptions} & {"relu_default", "second.residual"}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("read", READERS)
def test_the_verifier_finds_it_by_itself(
    write: Callable[[Make], fx.GraphModule],
    read: Callable[[fx.GraphModule], fx.GraphModule],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spfast.api.tell_across", lambda runs: None)
    for make, is_right in ((received, False), (relu, True)):
        module = read(write(make))
        before = spfast.snapshot(module)
        assert int(spfast.apply(module, config())) == 1
        assert spfast.verify(before, module, config()).ok is is_right


def of_the_caller(build: Callable[[Writer, fx.Node, fx.Node, fx.Node], fx.Node]) -> fx.GraphModule:
    w = Writer()
    x, residual, buffer = w.stream("x"), w.stream("residual"), w.stream("buffer")
    w.output([build(w, x, residual, buffer)])
    return fx.GraphModule({"first": writing(relu)}, w.graph)


def test_an_input_that_a_piece_writes_to_is_another_value_afterwards() -> None:
    def build(w: Writer, x: fx.Node, residual: fx.Node, buffer: fx.Node) -> fx.Node:
        got = w.piece("first", x, residual, buffer)
        return w.call(aten.add.Tensor, got, w.norm(w.call(aten.add.Tensor, w.reduced(x), buffer)))

    result = spfast.apply(of_the_caller(build), config())
    assert [each.reason for each in result.skipped] == [
        "%first = call_module writes in place to %buffer"
    ]


def test_what_a_piece_only_reads_is_what_it_was() -> None:
    def build(w: Writer, x: fx.Node, residual: fx.Node, buffer: fx.Node) -> fx.Node:
        got = w.piece("first", x, residual, buffer)
        return w.call(aten.add.Tensor, got, w.norm(w.call(aten.add.Tensor, w.reduced(x), residual)))

    result = spfast.apply(of_the_caller(build), config(validate=True))
    assert int(result) == 1
    assert "residual" in [each.value for each in result.assumptions]


def test_what_a_branch_writes_to_its_caller_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        buffer = zeros(w)
        got = w.choice("first", "other", x, residual, buffer)
        normed = w.norm(w.call(aten.add.Tensor, w.reduced(x), relu(w, buffer)))
        return w.call(aten.add.Tensor, got, normed)

    def whole(make: Make) -> fx.GraphModule:
        return model(build, first=writing(make), other=writing(relu))

    assert int(spfast.apply(whole(received), config(validate=True))) == 0
    assert int(spfast.apply(whole(relu), config(validate=True))) == 1
    monkeypatch.setattr("spfast.api.tell_across", lambda runs: None)
    module = whole(received)
    before = spfast.snapshot(module)
    assert int(spfast.apply(module, config())) == 1
    assert not spfast.verify(before, module, config()).ok


def test_a_result_that_is_what_was_given_is_written_to_with_it() -> None:
    """The caller writes to what a piece returns, which is a view of what it was given."""

    def build(w: Writer, x: fx.Node, residual: fx.Node) -> fx.Node:
        same = w.piece("first", x, residual)
        w.call(aten.add_.Tensor, same, w.sent(x))
        return w.norm(w.call(aten.add.Tensor, w.reduced(x), residual))

    result = spfast.apply(model(build, first=made(as_view)), config())
    assert [each.reason for each in result.skipped] == [
        "%add__tensor = aten.add_.Tensor writes in place to %residual"
    ]
    result = spfast.apply(model(build, first=made(relu)), config())
    assert int(result) == 1
