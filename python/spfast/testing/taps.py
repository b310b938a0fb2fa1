"""What makes a graph irregular: other readers of the stream, no-ops, unread nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import fx

from spfast.testing.builder import GraphBuilder
from spfast.testing.choose import Chooser
from spfast.testing.dialects import LayerWriter

aten = torch.ops.aten

TAPS = (
    "op",
    "output",
    "in_place",
    "full_add",
    "second_norm",
    "chunk",
    "dead",
    "written_then_read",
    "rows",
    "skip",
    "twice",
    "written_stream",
)


@dataclass
class Stream:
    """What flows through the layers while a graph is drawn; ``earlier``: the residual before."""

    residual: fx.Node
    normed: fx.Node
    earlier: fx.Node | None = None
    outputs: list[fx.Node] = field(default_factory=list)


class Drawing(Protocol):
    """What a tap has to know of the graph that is being drawn."""

    choose: Chooser
    build: GraphBuilder
    writer: LayerWriter
    dtype: torch.dtype
    hidden: int
    batch: int
    three_d: bool
    dynamic: bool
    epsilon: float
    notes: list[str]

    def full_input(self, name: str) -> fx.Node:
        """One more input with the shape of the stream."""

    def gain(self) -> fx.Node:
        """The weight of a norm."""

    def flat(self, x: fx.Node) -> fx.Node:
        """``x`` as [tokens, hidden]."""

    def shaped(self, x: fx.Node) -> fx.Node:
        """[tokens, hidden] as the stream is shaped."""

    def linear(self, x: fx.Node, inner: int, name: str) -> fx.Node:
        """``x`` times a weight of so many columns."""


def tap(drawing: Drawing, stream: Stream, value: fx.Node) -> None:
    """Gives ``value``, a value of the stream, one more reader of a kind drawn."""
    kind = drawing.choose.pick(TAPS)
    drawing.notes.append(f"{kind} tap on {value.name}")
    call = drawing.build.call
    if kind == "output":
        stream.outputs.append(value)
    elif kind == "twice":
        stream.outputs.extend([value, value])
    elif kind == "dead":
        call(aten.alias.default, value)
    elif kind == "chunk":
        axis = 1 if drawing.three_d else 0
        parts = call(aten.split.Tensor, value, 1 + drawing.build.hint // 2, axis)
        stream.outputs.append(call(_getitem(), parts, 0))
    elif kind == "rows":
        stream.outputs.append(call(aten.slice.Tensor, value, 0, 0, 1))
    else:
        plain = _readable(drawing, value)
        if kind == "op":
            stream.outputs.append(call(aten.relu.default, plain))
        elif kind == "in_place":
            buffer = drawing.full_input("buffer")
            call(aten.copy_.default, buffer, plain)
        elif kind == "written_then_read":
            buffer = drawing.full_input("buffer")
            call(aten.add_.Tensor, buffer, plain)
            stream.residual = drawing.writer.add(stream.residual, buffer)
        elif kind == "skip":
            earlier = stream.earlier if stream.earlier is not None else stream.residual
            stream.residual = drawing.writer.add(stream.residual, earlier)
        elif kind == "written_stream":
            call(aten.add_.Tensor, plain, drawing.full_input("full"))
        elif kind == "full_add":
            added = drawing.writer.add(plain, drawing.full_input("full"))
            if drawing.choose.chance(0.5):
                stream.residual = added
            else:
                stream.outputs.append(added)
        elif kind == "second_norm":
            normed = drawing.writer.norm(plain, drawing.gain(), drawing.epsilon)
            stream.outputs.append(drawing.linear(drawing.flat(normed), 8, "side"))


def add_noise(drawing: Drawing, value: fx.Node) -> fx.Node:
    """Passes ``value`` through a node that changes neither its elements nor their order."""
    call = drawing.build.call
    kind = drawing.choose.pick(("clone", "alias", "detach", "view", "slice", "there_and_back"))
    drawing.notes.append(f"{kind} after {value.name}")
    if kind == "clone":
        return call(aten.clone.default, value)
    if kind == "alias":
        return call(aten.alias.default, value)
    if kind == "detach":
        return call(aten.detach.default, value)
    if kind == "slice":
        return call(aten.slice.Tensor, value, 0, 0, 9223372036854775807)
    if kind == "view":
        shape = list(value.meta["val"].shape)
        if drawing.dynamic:
            shape = [drawing.batch, -1, drawing.hidden] if drawing.three_d else [-1, drawing.hidden]
        return call(aten.reshape.default, value, shape)
    return drawing.shaped(drawing.flat(value))


def _readable(drawing: Drawing, value: fx.Node) -> fx.Node:
    """``value`` in the dtype of the stream: quantised values are read through a cast."""
    if value.meta["val"].dtype == drawing.dtype:
        return value
    return drawing.writer.cast(value, drawing.dtype)


def _getitem() -> object:
    import operator

    return operator.getitem
