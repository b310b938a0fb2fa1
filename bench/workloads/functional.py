"""Llama-shaped graphs with functional collectives and decomposed RMSNorm, at the post-grad stage.

Two shapes of the residual stream: plain 2D tokens (`build_plain`) and the 3D [batch, sequence,
hidden] of Hugging Face models (`build_hf`), where each consumer of a normed value has its own
reshape to 2D.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.fx as fx

from .builder import GraphBuilder, Size

GROUP = "0"
BF16 = torch.bfloat16
F32 = torch.float32
HINT = 4096


@functools.cache
def declare_ops() -> None:
    """Loads the functional collectives; torch declares them on import."""


def build_plain(
    layers: int,
    tokens: int | None = HINT,
    hidden: int = 8192,
    inter: int = 28672,
    tp: int = 8,
    epsilon: float = 1e-5,
) -> fx.Graph:
    """Builds a graph with 2D tokens: one fused matmul reads each normed value.

    Args:
        layers: decoder layers; each has two all_reduces, and the embedding one more.
        tokens: rows of the residual stream; None: one symbolic size.
        hidden: features of the residual stream.
        inter: features of the MLP, over all ranks.
        tp: tensor-parallel size.
        epsilon: of every norm.

    Returns:
        A graph of bf16[tokens, hidden] -> bf16[tokens, hidden], every node with meta["val"].
    """
    return _build(layers, None, tokens, hidden, inter, tp, epsilon, consumers=(1, 1))


def build_hf(
    layers: int,
    tokens: int | None = HINT,
    hidden: int = 8192,
    inter: int = 28672,
    tp: int = 8,
    epsilon: float = 1e-6,
    batch: int = 1,
) -> fx.Graph:
    """Builds a graph with a 3D stream: q, k, v and gate, up each reshape the normed value.

    Args:
        layers: decoder layers; each has two all_reduces, and the embedding one more.
        tokens: length of a sequence; None: one symbolic size.
        hidden: features of the residual stream.
        inter: features of the MLP, over all ranks.
        tp: tensor-parallel size.
        epsilon: of every norm.
        batch: sequences.

    Returns:
        A graph of bf16[batch, tokens, hidden] -> bf16[batch, tokens, hidden], every node with
        meta["val"].
    """
    return _build(layers, batch, tokens, hidden, inter, tp, epsilon, consumers=(3, 2))


def _build(
    layers: int,
    batch: int | None,
    tokens: int | None,
    hidden: int,
    inter: int,
    tp: int,
    epsilon: float,
    consumers: tuple[int, int],
) -> fx.Graph:
    declare_ops()
    b = GraphBuilder()
    length: Size
    if tokens is None:
        node, length = b.symbol_input(HINT)
    else:
        node, length = None, tokens
    model = _Model(b, node, length, batch, hidden, epsilon, hidden // tp)
    heads = (hidden // tp, hidden // tp // 8, hidden // tp // 8)
    blocks = []
    x = b.placeholder(model.shape, BF16)
    for site in range(2 * layers):
        widths = heads if site % 2 == 0 else (inter // tp, inter // tp)
        n = consumers[site % 2]
        widths = widths if n > 1 else (sum(widths),)
        inner = hidden // tp if site % 2 == 0 else inter // tp
        norm = b.placeholder((hidden,), BF16)
        ups = [b.placeholder((width, hidden), BF16) for width in widths]
        blocks.append((norm, ups, b.placeholder((hidden, inner), BF16)))
    last_norm = b.placeholder((hidden,), BF16)
    model.flatten_symbol()
    embedded = b.call(torch.ops.aten.relu.default, (x,), model.shape, BF16)
    residual = model.reduce(embedded)
    normed = model.norm(residual, blocks[0][0] if blocks else last_norm)
    for site, (_, ups, down) in enumerate(blocks):
        active = model.attention(normed, ups) if site % 2 == 0 else model.mlp(normed, ups)
        stream = model.reduce(model.linear(active, down, model.hidden, to_stream=True))
        residual = b.call(torch.ops.aten.add.Tensor, (residual, stream), model.shape, BF16)
        weight = blocks[site + 1][0] if site + 1 < len(blocks) else last_norm
        normed = model.norm(residual, weight)
    return b.finish([normed])


class _Model:
    """What the layers share: the stream's shape, collectives, norm, matmuls."""

    def __init__(
        self,
        b: GraphBuilder,
        length_node: fx.Node | None,
        length: Size,
        batch: int | None,
        hidden: int,
        epsilon: float,
        inner: int,
    ) -> None:
        self.b, self.hidden, self.epsilon, self.batch = b, hidden, epsilon, batch
        self.inner = inner
        self.length_node, self.length = length_node, length
        self.shape: tuple[Size, ...] = (length, hidden)
        self.rows: Size = length
        self.rows_arg: Any = length_node if length_node is not None else length
        if batch is not None:
            self.shape = (batch, length, hidden)
            self.rows = batch * length

    def flatten_symbol(self) -> None:
        """Adds the node that computes batch * length, where the length is symbolic."""
        if self.batch is None or self.batch == 1 or self.length_node is None:
            if self.length_node is None:
                self.rows_arg = self.rows
            return
        import operator

        self.rows_arg = self.b.size(operator.mul, (self.batch, self.length_node), self.rows)

    def reduce(self, x: fx.Node) -> fx.Node:
        """all_reduce and the wait for it."""
        ops, b = torch.ops._c10d_functional, self.b
        started = b.call(ops.all_reduce.default, (x, "sum", GROUP), self.shape, BF16)
        return b.call(ops.wait_tensor.default, (started,), self.shape, BF16)

    def norm(self, x: fx.Node, weight: fx.Node) -> fx.Node:
        """RMSNorm in the decomposed form of Hugging Face models."""
        aten, b, shape = torch.ops.aten, self.b, self.shape
        cast = torch.ops.prims.convert_element_type.default
        row = (*shape[:-1], 1)
        wide = b.call(cast, (x, F32), shape, F32)
        square = b.call(aten.pow.Tensor_Scalar, (wide, 2), shape, F32)
        mean = b.call(aten.mean.dim, (square, [-1], True), row, F32)
        shifted = b.call(aten.add.Tensor, (mean, self.epsilon), row, F32)
        root = b.call(aten.rsqrt.default, (shifted,), row, F32)
        scaled = b.call(aten.mul.Tensor, (wide, root), shape, F32)
        narrow = b.call(cast, (scaled, BF16), shape, BF16)
        return b.call(aten.mul.Tensor, (weight, narrow), shape, BF16)

    def linear(self, x: fx.Node, weight: fx.Node, width: int, to_stream: bool = False) -> fx.Node:
        """x @ weight.T over 2D rows; 3D input is reshaped first, by its own node."""
        aten, b = torch.ops.aten, self.b
        inner = weight.meta["val"].shape[1]
        if len(x.meta["val"].shape) == 3:
            sizes = [self.rows_arg, inner]
            x = b.call(aten.reshape.default, (x, sizes), (self.rows, inner), BF16)
        flipped = b.call(aten.permute.default, (weight, [1, 0]), (inner, width), BF16, (1, inner))
        out = b.call(aten.mm.default, (x, flipped), (self.rows, width), BF16)
        if not to_stream or self.batch is None:
            return out
        length: Any = self.length_node if self.length_node is not None else self.length
        return b.call(aten.reshape.default, (out, [self.batch, length, width]), self.shape, BF16)

    def attention(self, normed: fx.Node, ups: list[fx.Node]) -> fx.Node:
        """Stands for attention: as many matmuls over the normed value, one value out."""
        aten, b = torch.ops.aten, self.b
        width = ups[0].meta["val"].shape[0]
        outs = [self.linear(normed, up, up.meta["val"].shape[0]) for up in ups]
        x = outs[0]
        if len(outs) == 1:
            q = self.inner
            x = b.call(aten.slice.Tensor, (x, 1, 0, q), (self.rows, q), BF16, (width, 1))
            return b.call(aten.silu.default, (x,), (self.rows, q), BF16)
        for other in outs[1:]:
            row = b.call(aten.sum.dim_IntList, (other, [-1], True), (self.rows, 1), BF16)
            x = b.call(aten.mul.Tensor, (x, row), (self.rows, width), BF16)
        return x

    def mlp(self, normed: fx.Node, ups: list[fx.Node]) -> fx.Node:
        """The gated MLP up to its second matmul."""
        aten, b = torch.ops.aten, self.b
        if len(ups) == 1:
            full = ups[0].meta["val"].shape[0]
            width = full // 2
            both = self.linear(normed, ups[0], full)
            parts = [
                b.call(aten.slice.Tensor, (both, 1, k * width, (k + 1) * width),
                       (self.rows, width), BF16, (full, 1))
                for k in range(2)
            ]  # fmt: skip
        else:
            width = ups[0].meta["val"].shape[0]
            parts = [self.linear(normed, up, width) for up in ups]
        active = b.call(aten.silu.default, (parts[0],), (self.rows, width), BF16)
        return b.call(aten.mul.Tensor, (active, parts[1]), (self.rows, width), BF16)
