"""How a value lies in memory is part of what it is to a caller and to who reads memory."""

from __future__ import annotations

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from verifier.pairs import Maker, aten, pair

from spfast.verifier.dims import Dims
from spfast.verifier.layout import otherwise


def columns(m: Maker) -> fx.Node:
    """Some columns of rows that are eight apart."""
    return m.call(aten.slice.Tensor, m.x, 1, 0, 4)


def packed(m: Maker, x: fx.Node) -> fx.Node:
    return m.call(aten.clone.default, x, memory_format=torch.contiguous_format)


def test_an_output_keeps_its_strides() -> None:
    def transposed(m: Maker) -> fx.Node:
        return m.call(aten.t.default, m.reduce(m.x))

    assert pair(transposed, transposed) == {}
    found = pair(transposed, lambda m: packed(m, transposed(m)))
    assert found == {"clone_default": "is output 0 with strides [8, 1], where they were [1, 8]"}


def test_a_gathered_output_lies_as_the_full_one_did() -> None:
    """Some columns of a stream are no fresh tensor."""
    found = pair(
        lambda m: m.call(aten.slice.Tensor, m.reduce(m.x), 1, 0, 4),
        lambda m: m.gather(m.call(aten.slice.Tensor, m.scatter(m.x), 1, 0, 4)),
    )
    assert found == {
        "all_gather_default": "is output 0 with strides [4, 1], where they were [8, 1]"
    }


def test_who_reads_memory_reads_it_as_it_lies() -> None:
    def read(m: Maker, x: fx.Node) -> fx.Node:
        return m.call(aten.as_strided.default, x, [4, 2], [4, 1], 0)

    def as_they_lie(m: Maker) -> fx.Node:
        return read(m, columns(m))

    def as_packed(m: Maker) -> fx.Node:
        return read(m, packed(m, columns(m)))

    assert pair(as_they_lie, as_they_lie) == {}
    assert pair(as_packed, as_packed) == {}
    reason = "reads memory in which its operands lie otherwise than before"
    assert pair(as_they_lie, as_packed) == {"as_strided_default": reason}


def test_whose_elements_alone_count_is_read_wherever_it_lies() -> None:
    def total(m: Maker, x: fx.Node) -> fx.Node:
        return m.call(aten.cumsum.default, x, 0)

    found = pair(
        lambda m: packed(m, total(m, columns(m))),
        lambda m: packed(m, total(m, packed(m, columns(m)))),
    )
    assert found == {}


def test_strides_of_sizes_that_nobody_knows_are_compared_without_a_guard() -> None:
    env = ShapeEnv()
    with FakeTensorMode(shape_env=env):
        rows = env.create_unbacked_symint()
        one, other = torch.empty(rows, 8), torch.empty(rows, 16)[:, :8]
        assert otherwise(Dims(), one, torch.empty(rows, 8)) is None
        assert otherwise(Dims(), one, other) == "[16, 1], where they were [8, 1]"
    assert not env.guards
