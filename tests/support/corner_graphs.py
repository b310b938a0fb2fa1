"""Small graphs, each built around one way to get the rewrite wrong that models rarely show."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

import spfast
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
ir = torch.ops.vllm_ir
F32, BF16 = torch.float32, torch.bfloat16
HIDDEN, WORLD = 16, 2


@dataclass(frozen=True)
class Corner:
    """One graph.

    Attributes:
        build: Builds it; two calls give equal graphs.
        rewritten: How many of its all_reduces the pass is expected to rewrite.
        gathers: How many all_gathers the rewritten graph is expected to have.
        reason: A part of the reason of those that stay.
    """

    build: Callable[[], GraphBuilder]
    rewritten: int
    gathers: int
    reason: str = ""


CORNERS: dict[str, Corner] = {}


def of_rank(rank: int, **fields: Any) -> spfast.SequenceParallelConfig:
    """The config of one rank, for any corner."""
    groups = dict.fromkeys(("tp:0", "other:0", "0"), (WORLD, rank))
    return spfast.SequenceParallelConfig(groups=groups, **fields)


def corner(rewritten: int, gathers: int, reason: str = "") -> Callable[[Callable[[], Any]], Any]:
    """Registers a function that builds a graph under the function's name."""

    def decorate(build: Callable[[], GraphBuilder]) -> Callable[[], GraphBuilder]:
        CORNERS[build.__name__] = Corner(build, rewritten, gathers, reason)
        return build

    return decorate


class _Graph(GraphBuilder):
    """A graph of vLLM's dialect, [tokens, HIDDEN], for two ranks."""

    def __init__(self, dynamic: bool = False) -> None:
        super().__init__(tokens=8, dynamic=dynamic)

    def full(self, name: str = "x", dtype: torch.dtype = F32) -> fx.Node:
        return self.placeholder(name, (TOKENS, HIDDEN), dtype)

    def of(self, *shape: int, dtype: torch.dtype = F32, kind: str = "replicated") -> fx.Node:
        return self.placeholder("full", shape, dtype, kind)

    def partial(self, *shape: int | str) -> fx.Node:
        return self.placeholder("part", shape or (TOKENS, HIDDEN), F32, "per_rank")

    def reduce(self, x: fx.Node, group: str = "tp:0") -> fx.Node:
        return self.call(torch.ops.vllm.all_reduce.default, x, group)

    def functional(self, x: fx.Node) -> fx.Node:
        started = self.call(torch.ops._c10d_functional.all_reduce.default, x, "sum", "0")
        return self.call(torch.ops._c10d_functional.wait_tensor.default, started)

    def gain(self, width: int = HIDDEN, dtype: torch.dtype = F32) -> fx.Node:
        return self.placeholder("gain", (width,), dtype, "gain")

    def scaled_norm(self, x: fx.Node, width: int = HIDDEN) -> fx.Node:
        """With a gain of which the graph itself shows that all ranks have it."""
        device = torch.device("cpu")
        gain = self.call(
            aten.full.default, [width], 1.5, dtype=F32, device=device, pin_memory=False
        )
        return self.call(ir.rms_norm.default, x, gain, 1e-6)

    def norm(self, x: fx.Node, width: int = HIDDEN) -> fx.Node:
        return self.call(ir.rms_norm.default, x, self.gain(width, x.meta["val"].dtype), 1e-6)

    def add_norm(self, x: fx.Node, residual: fx.Node) -> tuple[fx.Node, fx.Node]:
        pair = self.call(ir.fused_add_rms_norm.default, x, residual, self.gain(), 1e-6)
        return self.item(pair, 0), self.item(pair, 1)

    def item(self, pair: fx.Node, index: int) -> fx.Node:
        return self.call(operator.getitem, pair, index)

    def quantise(self, x: fx.Node, scale: fx.Node, rows: Any) -> fx.Node:
        from torch._higher_order_ops.auto_functionalize import auto_functionalized

        empty = self.call(
            aten.empty.memory_format,
            [rows, HIDDEN],
            dtype=F32,
            device=torch.device("cpu"),
            pin_memory=False,
        )
        op = torch.ops._C.static_scaled_fp8_quant.default
        return self.item(self.call(auto_functionalized, op, result=empty, input=x, scale=scale), 1)

    def done(self, *values: fx.Node) -> GraphBuilder:
        self.output(values)
        return self


def _later_all_reduce_reads_first(dynamic: bool) -> GraphBuilder:
    g = _Graph(dynamic)
    residual = g.full("residual")
    first, second = g.reduce(g.partial()), g.reduce(g.partial())
    normed, _ = g.add_norm(second, residual)
    other, _ = g.add_norm(first, residual)
    return g.done(normed, other)


@corner(rewritten=2, gathers=2)
def rows_are_shared_by_sites_in_another_order() -> GraphBuilder:
    """The rows of the residual are needed first by the site whose all_reduce comes second."""
    return _later_all_reduce_reads_first(dynamic=False)


@corner(rewritten=2, gathers=2)
def local_size_is_shared_by_sites_in_another_order() -> GraphBuilder:
    """The same with a symbolic number of tokens, whose share is a node."""
    return _later_all_reduce_reads_first(dynamic=True)


@corner(rewritten=2, gathers=3)
def residual_of_a_site_of_another_group_that_starts_later() -> GraphBuilder:
    """It is full only behind an all_gather, which has to be planned before it is cut."""
    g = _Graph()
    first = g.reduce(g.partial(), "other:0")
    normed, residual = g.add_norm(g.reduce(g.partial()), g.full())
    other, _ = g.add_norm(first, residual)
    return g.done(normed, other)


@corner(rewritten=0, gathers=0, reason="writes in place to")
def residual_is_a_copy_made_before_a_write() -> GraphBuilder:
    """What the copy holds cannot be read from the original afterwards."""
    g = _Graph()
    full = g.full()
    copy = g.call(aten.clone.default, full)
    g.call(aten.add_.Tensor, full, 1.0)
    normed, _ = g.add_norm(g.reduce(g.partial()), copy)
    return g.done(normed)


def _by_keyword(node: fx.Node) -> fx.Node:
    """Gives every operand by its keyword instead of its position."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    node.kwargs = dict(zip(names, node.args, strict=False)) | node.kwargs
    node.args = ()
    return node


@corner(rewritten=0, gathers=0, reason="writes in place to")
def residual_is_a_copy_made_before_a_write_by_keyword() -> GraphBuilder:
    g = _Graph()
    full = g.full()
    copy = g.call(aten.clone.default, full)
    _by_keyword(g.call(aten.add_.Tensor, full, 1.0))
    normed, _ = g.add_norm(g.reduce(g.partial()), copy)
    return g.done(normed)


@corner(rewritten=0, gathers=0, reason="writes in place to")
def residual_is_a_copy_made_before_a_write_to_a_view_by_keyword() -> GraphBuilder:
    g = _Graph()
    full = g.full()
    copy = g.call(aten.clone.default, full)
    view = _by_keyword(g.call(aten.view.default, full, [8 * HIDDEN]))
    g.call(aten.add_.Tensor, view, 1.0)
    normed, _ = g.add_norm(g.reduce(g.partial()), copy)
    return g.done(normed)


@corner(rewritten=0, gathers=0, reason="writes in place to")
def residual_is_a_copy_of_what_an_operator_wrote_before_another_write() -> GraphBuilder:
    """What an operator with an out argument returns is that argument's memory."""
    g = _Graph()
    buffer = g.call(aten.clone.default, g.full())
    sum_ = g.call(aten.add.out, g.full("y"), g.full("z"), out=buffer)
    copy = g.call(aten.clone.default, sum_)
    g.call(aten.mul_.Tensor, buffer, 2.0)
    normed, _ = g.add_norm(g.reduce(g.partial()), copy)
    return g.done(normed)


@corner(rewritten=0, gathers=0, reason="its group is computed in the graph")
def group_is_a_value_of_the_graph() -> GraphBuilder:
    """Nobody knows the ranks of a group that is known only when the graph runs."""
    g = _Graph()
    group = g.call(operator.getitem, ("tp:0",), 0)
    reduced = g.reduce(g.partial())
    reduced.args = (reduced.args[0], group)
    return g.done(g.norm(reduced))


@corner(rewritten=2, gathers=2)
def all_reduce_of_a_copy_that_is_written_to() -> GraphBuilder:
    """What is scattered is the copy as it is then, not the value that it was made of."""
    g = _Graph()
    normed = g.scaled_norm(g.reduce(g.partial()))
    copy = g.call(aten.clone.default, normed)
    g.call(aten.add_.Tensor, copy, 1.0)
    return g.done(g.norm(g.reduce(copy)))


@corner(rewritten=1, gathers=1, reason="is this rank's own")
def gain_of_which_only_one_rank_may_have_it() -> GraphBuilder:
    """Were it the same on every rank, so would be what the second all_reduce sums."""
    g = _Graph()
    return g.done(g.norm(g.reduce(g.norm(g.reduce(g.partial())))))


@corner(rewritten=1, gathers=1, reason="is this rank's own")
def all_reduce_of_a_view_of_a_wider_value() -> GraphBuilder:
    """What is reduced shows that the gain is a rank's own: its norm stays."""
    g = _Graph()
    wide = g.scaled_norm(g.reduce(g.partial(TOKENS, 2 * HIDDEN)), 2 * HIDDEN)
    return g.done(g.norm(g.reduce(g.call(aten.view.default, wide, [16, HIDDEN]))))


@corner(rewritten=2, gathers=2)
def all_reduce_of_a_copy_in_another_dtype() -> GraphBuilder:
    """The copy has the dtype of what it is copied to."""
    g = _Graph()
    normed = g.norm(g.reduce(g.partial()))
    copy = g.call(aten.copy.default, g.full("into", BF16), normed)
    return g.done(g.norm(g.reduce(copy)))


@corner(rewritten=1, gathers=1)
def residual_with_a_leading_one() -> GraphBuilder:
    """The sum has three dims though neither the stream nor its all_reduce has."""
    return _leading_one(-1)


def mean_over_tokens() -> GraphBuilder:
    """Dim 1 of a value that has three dims, where the stream has two: no norm at all."""
    return _leading_one(1)


def _leading_one(dim: int) -> GraphBuilder:
    g = _Graph()
    summed = g.call(aten.add.Tensor, g.of(1, 8, HIDDEN), g.functional(g.partial()))
    square = g.call(aten.pow.Tensor_Scalar, summed, 2)
    mean = g.call(aten.mean.dim, square, [dim], True)
    root = g.call(aten.rsqrt.default, g.call(aten.add.Tensor, mean, 1e-6))
    scaled = g.call(aten.mul.Tensor, summed, root)
    return g.done(g.call(aten.mul.Tensor, scaled, g.gain()))


@corner(rewritten=0, gathers=0, reason="no token dim")
def residual_that_broadcasts_with_the_stream() -> GraphBuilder:
    """Both have as many rows, yet every row of one meets every row of the other."""
    g = _Graph()
    stream = g.functional(g.partial(4, 1, HIDDEN))
    summed = g.call(aten.add.Tensor, g.of(1, 4, HIDDEN), stream)
    normed = g.call(aten.rms_norm.default, summed, [HIDDEN], g.gain(), 1e-6)
    return g.done(normed)


@corner(rewritten=1, gathers=1)
def size_asked_of_a_sharded_value() -> GraphBuilder:
    """A size of what is sharded is a size of what was reduced: nothing is gathered to know it."""
    g = _Graph(dynamic=True)
    _, residual = g.add_norm(g.reduce(g.partial()), g.full())
    normed = g.norm(g.full("other"))
    rows = g.call(aten.sym_size.int, residual, 0)
    return g.done(residual, g.call(aten.view.default, normed, [1, rows, HIDDEN]))


@corner(rewritten=1, gathers=1)
def size_asked_for_a_buffer_that_goes() -> GraphBuilder:
    """The buffer is made anew, smaller; what it needed goes with it."""
    g = _Graph(dynamic=True)
    normed = g.norm(g.reduce(g.partial()))
    rows = g.call(aten.sym_size.int, normed, 0)
    scale = g.placeholder("scale", (1,), F32, "constant", 0.02)
    return g.done(g.quantise(normed, scale, rows))


@corner(rewritten=1, gathers=2)
def buffer_that_others_read_too() -> GraphBuilder:
    """The buffer stays for the other reader, who knows it at its full size."""
    from torch._higher_order_ops.auto_functionalize import auto_functionalized

    g = _Graph()
    reduced = g.reduce(g.partial())
    empty = g.call(aten.empty_like.default, reduced, pin_memory=False)
    op = torch.ops._C.rms_norm.default
    pair = g.call(
        auto_functionalized, op, result=empty, input=reduced, weight=g.gain(), epsilon=1e-6
    )
    ones = g.call(aten.ones_like.default, empty, pin_memory=False)
    return g.done(g.item(pair, 1), ones)


@corner(rewritten=2, gathers=2)
def sites_that_share_a_constant() -> GraphBuilder:
    """One reciprocal of one scale serves both quantisations, as after CSE."""
    g = _Graph()
    scale = g.placeholder("scale", (1,), F32, "constant", 0.02)
    inverse = g.call(aten.reciprocal.default, scale)
    out = []
    residual = g.full()
    for _ in range(2):
        normed, residual = g.add_norm(g.reduce(g.partial()), residual)
        scaled = g.call(aten.mul.Tensor, normed, inverse)
        clamped = g.call(aten.clamp.default, scaled, -448.0, 448.0)
        out.append(g.call(aten._to_copy.default, clamped, dtype=torch.float8_e4m3fn))
    return g.done(*out)


@corner(rewritten=1, gathers=1)
def full_residual_under_another_name() -> GraphBuilder:
    """The view that only the site read goes with it."""
    g = _Graph()
    flat = g.call(aten.view.default, g.of(2, 4, HIDDEN), [8, HIDDEN])
    normed, _ = g.add_norm(g.reduce(g.partial()), flat)
    return g.done(normed)


@corner(rewritten=1, gathers=1)
def scale_of_each_token() -> GraphBuilder:
    """What looks like a static quantisation has a scale a token: the norm alone is sharded."""
    g = _Graph()
    normed = g.norm(g.reduce(g.partial()))
    scale = g.placeholder("scale", (TOKENS, 1), F32, "constant", 0.02)
    scaled = g.call(aten.mul.Tensor, normed, g.call(aten.reciprocal.default, scale))
    clamped = g.call(aten.clamp.default, scaled, -448.0, 448.0)
    return g.done(g.call(aten._to_copy.default, clamped, dtype=torch.float8_e4m3fn))


def inputs(built: GraphBuilder) -> Sequence[list[Any]]:
    """Inputs for every rank."""
    return [[spec.make(rank, 8, seed=0) for spec in built.inputs] for rank in range(WORLD)]
