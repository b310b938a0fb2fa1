"""Llama-shaped graphs as vLLM's compile backend sees them: vllm.all_reduce and the vllm_ir norms.

Each layer has two sites, and the embedding one more: ``2 * layers + 1`` all_reduces, each followed
by a norm.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.fx as fx
from torch._higher_order_ops.auto_functionalize import auto_functionalized

from .builder import GraphBuilder, Size

Fp8 = Literal["custom_op", "native"]
GROUP = "tp:0"
BF16 = torch.bfloat16
F32 = torch.float32
FP8 = torch.float8_e4m3fn
HINT = 4096


@functools.cache
def declare_ops() -> None:
    """Declares the ops of the namespaces vllm, vllm_ir and _C, where the real ones are absent."""
    from spfast.testing import ops

    ops.declare()


def build(
    layers: int,
    tokens: int | None = HINT,
    hidden: int = 8192,
    inter: int = 28672,
    tp: int = 8,
    fp8: Fp8 | None = None,
    epsilon: float = 1e-5,
    first_site: bool = True,
) -> fx.Graph:
    """Builds a Llama-3-70B-like graph in the vLLM IR dialect.

    Args:
        layers: decoder layers; each has two all_reduces.
        tokens: rows of the residual stream; None: one symbolic size, with 4096 as its hint.
        hidden: features of the residual stream.
        inter: features of the MLP, over all ranks.
        tp: tensor-parallel size.
        fp8: how the normed value is quantised before its matmul; None: not at all.
        epsilon: of every norm.
        first_site: whether the embedding is reduced inside the graph.

    Returns:
        A graph of bf16[tokens, hidden] -> bf16[tokens, hidden], every node with meta["val"]. A
        symbolic size is the first input, as in what torch.compile makes.

    Example:
        >>> graph = build(layers=2)                                       # doctest: +SKIP
        >>> sum("all_reduce" in n.name for n in graph.nodes)              # doctest: +SKIP
        5
    """
    declare_ops()
    b = GraphBuilder()
    rows: Size
    if tokens is None:
        rows_node, rows = b.symbol_input(HINT)
    else:
        rows_node, rows = None, tokens
    qkv, gate = hidden // tp, 2 * inter // tp
    model = _Model(b, rows, rows_node, hidden, fp8, epsilon)
    x = b.placeholder((rows, hidden), BF16)
    weights = [
        model.weights(qkv, qkv) if site % 2 == 0 else model.weights(gate, gate // 2)
        for site in range(2 * layers)
    ]
    last_norm = b.placeholder((hidden,), BF16)
    ops = torch.ops
    stream = b.call(ops.aten.relu.default, (x,), (rows, hidden), BF16)
    residual: fx.Node | None = None if first_site else stream
    if first_site:
        stream = b.call(ops.vllm.all_reduce.default, (stream, GROUP), (rows, hidden), BF16)
    for site, weight in enumerate(weights):
        normed, residual = model.norm(stream, residual if site else None, weight["norm"])
        attention = site % 2 == 0
        width = qkv if attention else gate
        out = model.matmul(normed, weight, width)
        active = (
            b.call(ops.aten.silu.default, (out,), (rows, width), BF16)
            if attention
            else model.silu_and_mul(out, width // 2)
        )
        down = b.call(ops.aten.mm.default, (active, weight["down"]), (rows, hidden), BF16)
        stream = b.call(ops.vllm.all_reduce.default, (down, GROUP), (rows, hidden), BF16)
    normed, _ = model.norm(stream, residual, last_norm)
    return b.finish([normed])


class _Model:
    """What the layers share: sizes, the norm, the (quantised) matmul."""

    def __init__(
        self,
        b: GraphBuilder,
        rows: Size,
        rows_node: fx.Node | None,
        hidden: int,
        fp8: Fp8 | None,
        epsilon: float,
    ) -> None:
        self.b, self.rows, self.rows_node = b, rows, rows_node
        self.hidden, self.fp8, self.epsilon = hidden, fp8, epsilon

    def weights(self, width: int, inner: int) -> dict[str, fx.Node]:
        """The inputs of one block: norm, [hidden, width] (with scales), [inner, hidden]."""
        b, h = self.b, self.hidden
        out = {"norm": b.placeholder((h,), BF16)}
        if self.fp8 is None:
            out["up"] = b.placeholder((h, width), BF16)
        else:
            out["up"] = b.placeholder((h, width), FP8, (1, h))
            out["scale"] = b.placeholder((1, 1), F32)
            out["weight_scale"] = b.placeholder((1, 1), F32)
        out["down"] = b.placeholder((inner, h), BF16)
        return out

    def norm(
        self, stream: fx.Node, residual: fx.Node | None, weight: fx.Node
    ) -> tuple[fx.Node, fx.Node]:
        """The norm of ``stream`` (+ residual): (normed, new residual)."""
        b, shape = self.b, (self.rows, self.hidden)
        if residual is None:
            op: Any = torch.ops.vllm_ir.rms_norm.default
            return b.call(op, (stream, weight, self.epsilon), shape, BF16), stream
        op = torch.ops.vllm_ir.fused_add_rms_norm.default
        values = (b.fake(shape, BF16), b.fake(shape, BF16))
        both = b.call_tuple(op, (stream, residual, weight, self.epsilon), values)
        return b.getitem(both, 0), b.getitem(both, 1)

    def matmul(self, x: fx.Node, weight: dict[str, fx.Node], width: int) -> fx.Node:
        """The first matmul of a block, with its quantisation where the model has one."""
        b, rows = self.b, self.rows
        if self.fp8 is None:
            op: Any = torch.ops.aten.mm.default
            return b.call(op, (x, weight["up"]), (rows, width), BF16)
        quant = self._quant_op if self.fp8 == "custom_op" else self._quant_native
        x = quant(x, weight["scale"])
        scales = (weight["scale"], weight["weight_scale"])
        args = (x, weight["up"], *scales, None, None, BF16)
        return b.call(torch.ops.aten._scaled_mm.default, args, (rows, width), BF16)

    def _quant_op(self, x: fx.Node, scale: fx.Node) -> fx.Node:
        b, shape = self.b, (self.rows, self.hidden)
        sizes: list[Any] = [self.rows_node or self.rows, self.hidden]
        out = b.call(
            torch.ops.aten.empty.memory_format, (sizes,), shape, FP8,
            dtype=FP8, device=b.device, pin_memory=False,
        )  # fmt: skip
        both = b.call_tuple(
            auto_functionalized,
            (torch.ops._C.static_scaled_fp8_quant.default,),
            (None, b.fake(shape, FP8)),
            result=out,
            input=x,
            scale=scale,
        )
        return b.getitem(both, 1)

    def _quant_native(self, x: fx.Node, scale: fx.Node) -> fx.Node:
        b, shape, aten = self.b, (self.rows, self.hidden), torch.ops.aten
        wide = b.call(aten._to_copy.default, (x,), shape, F32, dtype=F32)
        inverse = b.call(aten.reciprocal.default, (scale,), (1, 1), F32)
        scaled = b.call(aten.mul.Tensor, (wide, inverse), shape, F32)
        clamped = b.call(aten.clamp.default, (scaled, -448.0, 448.0), shape, F32)
        return b.call(aten._to_copy.default, (clamped,), shape, FP8, dtype=FP8)

    def silu_and_mul(self, x: fx.Node, width: int) -> fx.Node:
        """The gated activation of an MLP: [rows, 2 * width] -> [rows, width]."""
        b, shape, aten = self.b, (self.rows, width), torch.ops.aten
        halves = b.call_tuple(
            aten.split.Tensor, (x, width, -1), (b.fake(shape, BF16), b.fake(shape, BF16))
        )
        gate, up = b.getitem(halves, 0), b.getitem(halves, 1)
        active = b.call(aten.silu.default, (gate,), shape, BF16)
        return b.call(aten.mul.Tensor, (active, up), shape, BF16)
