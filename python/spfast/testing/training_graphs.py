"""Small random training steps as joint graphs: forward and backward in one, as autograd makes them.

``draw_step(SeededChooser(7))`` always gives the same graph; ``steps()`` is a hypothesis strategy
over them. The model is drawn, the backward is not: it is what torch derives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx

from spfast.testing.builder import InputSpec
from spfast.testing.choose import Chooser, DrawnChooser
from spfast.testing.graphs import DrawnAllReduce, TensorParallelCase

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["draw_step", "steps"]

_c10d = torch.ops._c10d_functional
_GROUP = "0"
_ACTIVATIONS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (F.silu, F.gelu, torch.tanh)

# What a piece of the model yields, given the values of its inputs by name.
Piece = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


def _reduced(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _c10d.wait_tensor(_c10d.all_reduce(x, "sum", _GROUP))
    return result


class _Enter(torch.autograd.Function):
    """Into layers that each rank has a part of: the gradient is the sum of the ranks'."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _reduced(gradients[0])


class _Leave(torch.autograd.Function):
    """Out of them: the value is the sum of the ranks' parts."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _reduced(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


@dataclass
class _Drawing:
    """One model being drawn."""

    choose: Chooser
    world: int
    hidden: int
    dtype: torch.dtype
    specs: list[InputSpec] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def input(self, name: str, shape: tuple[int, ...], kind: str, value: float = 1.0) -> str:
        name = f"{name}_{len(self.specs)}"
        self.specs.append(InputSpec(name, shape, self.dtype, kind, value))
        return name

    def note(self, what: str, probability: float = 0.5) -> bool:
        """Draws whether the model has something, and keeps that for a failure's message."""
        chosen = self.choose.chance(probability)
        if chosen:
            self.notes.append(what)
        return chosen

    def norm(self) -> Piece:
        gain = self.input("gain", (self.hidden,), "gain")
        kind = self.choose.pick(("rms", "rms in float32", "layer"))
        if kind == "layer":
            bias = self.input("bias", (self.hidden,), "replicated", 0.1)
            return lambda given, x: F.layer_norm(x, (self.hidden,), given[gain], given[bias])

        def rms(given: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            wide = x.float() if kind != "rms" else x
            scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
            return given[gain] * scaled.to(x.dtype)

        return rms

    def fed(self) -> Piece:
        """A row-parallel layer behind one to three column-parallel ones."""
        inner = self.choose.pick((4, 6))
        ways = [
            self.input("w_in", (self.hidden, inner), "per_rank", self.hidden**-0.5)
            for _ in range(self.choose.integer(1, 3))
        ]
        out = self.input("w_out", (inner, self.hidden), "per_rank", inner**-0.5)
        activation = self.choose.pick(_ACTIVATIONS)
        # Entered once for all of them, or by each: its gradients are then reduced one by one.
        apart = self.note("entered by each")
        scaled = self.note("scaled", 0.3)

        def run(given: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            once = x if apart else _enter(x)
            values = [(_enter(x) if apart else once) @ given[name] for name in ways]
            value = activation(values[0])
            for other in values[1:]:
                value = value * other
            left = _leave(value @ given[out])
            return left * 0.5 if scaled else left

        return run

    def block(self) -> Piece:
        norm, first = self.norm(), self.fed()
        second = self.fed() if self.note("two in parallel", 0.3) else None
        bias = self.input("bias", (self.hidden,), "replicated") if self.note("bias", 0.3) else None
        after = self.norm() if self.note("norm behind", 0.3) else None
        residual = self.note("residual", 0.8)

        def run(given: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            read = norm(given, x)
            out = first(given, read)
            if second is not None:
                out = out + second(given, read)
            if bias is not None:
                out = out + given[bias]
            if after is not None:
                out = after(given, out)
            return x + out if residual else out

        return run


def _enter(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _Enter.apply(x)  # type: ignore[no-untyped-call]
    return result


def _leave(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _Leave.apply(x)  # type: ignore[no-untyped-call]
    return result


def draw_step(choose: Chooser) -> TensorParallelCase:
    """Draws one step: what the model yields, and the gradient of each of its inputs.

    Args:
        choose: The source of the choices.

    Example:
        >>> from spfast.testing.choose import SeededChooser
        >>> case = draw_step(SeededChooser(1))
        >>> case.graph.find_nodes(op="placeholder")[-1].name
        'tangents_1'
    """
    world = choose.pick((2, 4))
    dtype = choose.pick((torch.float32, torch.float32, torch.bfloat16))
    drawing = _Drawing(choose, world, choose.pick((8, 16)), dtype)
    batch, length = choose.integer(1, 2), world * choose.integer(1, 2)
    x = drawing.input("x", (batch, length, drawing.hidden), "replicated")
    blocks = [drawing.block() for _ in range(choose.integer(1, 3))]
    last = drawing.norm() if drawing.note("last norm") else None
    head = None
    if drawing.note("head"):
        width = 4
        head = drawing.input("head", (drawing.hidden, width), "per_rank", drawing.hidden**-0.5)
        upstream = InputSpec("tangents_1", (batch, length, width), dtype, "per_rank")
    else:
        upstream = InputSpec("tangents_1", (batch, length, drawing.hidden), dtype, "replicated")
    specs = [*drawing.specs, upstream]

    def joint(*values: torch.Tensor) -> list[torch.Tensor]:
        learned = [value.requires_grad_() for value in values[:-1]]
        given = dict(zip((spec.name for spec in drawing.specs), learned, strict=True))
        stream = given[x]
        for block in blocks:
            stream = block(given, stream)
        if last is not None:
            stream = last(given, stream)
        if head is not None:
            stream = _enter(stream) @ given[head]
        return [stream, *torch.autograd.grad(stream, learned, values[-1])]

    graph = _trace(joint, specs)
    reduced = graph.find_nodes(op="call_function", target=_c10d.all_reduce.default)
    return TensorParallelCase(
        graph=graph,
        world_size=world,
        groups={_GROUP: tuple(range(world))},
        specs=tuple(specs),
        sites=tuple(DrawnAllReduce(node.name, _GROUP, False) for node in reduced),
        tokens=length,
        rows=batch * length,
        dynamic=False,
        dtype=dtype,
        quantised_to_fp8=False,
        notes=(f"world {world}", f"[{batch}, {length}]", str(dtype), *drawing.notes),
    )


def _trace(joint: Callable[..., Any], specs: list[InputSpec]) -> fx.Graph:
    """The graph of a function of tensors, in the operators that Inductor is given."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = [spec.make(0, 0, 0) for spec in specs]
    trace: Any = make_fx(joint, decomposition_table=select_decomp_table(), tracing_mode="fake")
    graph: fx.Graph = trace(*examples).graph
    for node, spec in zip(graph.find_nodes(op="placeholder"), specs, strict=True):
        node.target = spec.name
        node.name = spec.name
    graph.eliminate_dead_code()
    graph.lint()
    return graph


def steps() -> SearchStrategy[TensorParallelCase]:
    """A hypothesis strategy over the steps; needs hypothesis."""
    from hypothesis import strategies

    @strategies.composite
    def drawn(draw: Callable[[Any], Any]) -> TensorParallelCase:
        return draw_step(DrawnChooser(draw))

    return drawn()
