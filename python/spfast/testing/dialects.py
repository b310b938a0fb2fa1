"""How each dialect writes the collective, the norm and the quantisation of a layer."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from spfast.testing import ops
from spfast.testing.builder import GraphBuilder
from spfast.testing.choose import Chooser

aten = torch.ops.aten

DIALECTS = ("vllm_ir", "vllm_custom_ops", "functional")
FP8 = torch.float8_e4m3fn


class LayerWriter:
    """Writes the vLLM-IR dialect; the others differ in what they override.

    Args:
        build: the graph under construction.
        choose: where the free choices (argument order, form of the norm) come from.
    """

    name = "vllm_ir"

    def __init__(self, build: GraphBuilder, choose: Chooser) -> None:
        ops.declare()
        self.build = build
        self.choose = choose

    def all_reduce(self, x: fx.Node, group: str, kind: str = "sum") -> fx.Node:
        """The sum of ``x`` over the ranks of ``group``; other kinds in the functional dialect."""
        return self.build.call(torch.ops.vllm.all_reduce.default, x, group)

    def norm(self, x: fx.Node, weight: fx.Node, epsilon: float) -> fx.Node:
        """The RMS norm of ``x`` over its last dimension, times ``weight``."""
        return self.build.call(torch.ops.vllm_ir.rms_norm.default, x, weight, epsilon)

    def add_norm(
        self, x: fx.Node, residual: fx.Node, weight: fx.Node, epsilon: float
    ) -> tuple[fx.Node, fx.Node]:
        """(normed, x + residual)."""
        pair = self.build.call(
            torch.ops.vllm_ir.fused_add_rms_norm.default, x, residual, weight, epsilon
        )
        return self._item(pair, 0), self._item(pair, 1)

    def add(self, left: fx.Node, right: fx.Node) -> fx.Node:
        """The sum, in either order."""
        if self.choose.chance(0.5):
            left, right = right, left
        return self.build.call(aten.add.Tensor, left, right)

    def quantise(self, x: fx.Node, scale: fx.Node, native: bool, dtype: torch.dtype) -> fx.Node:
        """Static per-tensor fp8 quantisation: one custom op, or decomposed when ``native``."""
        call = self.build.call
        if native:
            wide = x if x.meta["val"].dtype == torch.float32 else self.cast(x, torch.float32)
            scaled = call(aten.mul.Tensor, wide, call(aten.reciprocal.default, scale))
            return self.cast(call(aten.clamp.default, scaled, -448.0, 448.0), FP8)
        empty = call(
            aten.empty.memory_format,
            self.sizes(x),
            dtype=dtype,
            device=torch.device("cpu"),
            pin_memory=False,
        )
        op = torch.ops._C.static_scaled_fp8_quant.default
        return self._item(
            self.functionalised(op, ["result"], result=empty, input=x, scale=scale), 1
        )

    def cast(self, x: fx.Node, dtype: torch.dtype) -> fx.Node:
        """``x`` as ``dtype``."""
        return self.build.call(aten._to_copy.default, x, dtype=dtype)

    def functionalised(self, op: Any, mutated: list[str], **kwargs: Any) -> fx.Node:
        """A mutating op as functionalisation leaves it (first version)."""
        from torch._higher_order_ops.auto_functionalize import auto_functionalized

        return self.build.call(auto_functionalized, op, **kwargs)

    def sizes(self, x: fx.Node) -> list[Any]:
        """The sizes of ``x`` as arguments: ints, and sym_size nodes for symbolic ones."""
        return [
            dim if isinstance(dim, int) else self.build.call(aten.sym_size.int, x, axis)
            for axis, dim in enumerate(x.meta["val"].shape)
        ]

    def _item(self, value: fx.Node, index: int) -> fx.Node:
        return self.build.call(operator.getitem, value, index)


class CustomOps(LayerWriter):
    """Mutating custom ops, functionalised (v1 or v2), as vLLM wrote its norms before its IR."""

    name = "vllm_custom_ops"

    def __init__(self, build: GraphBuilder, choose: Chooser) -> None:
        super().__init__(build, choose)
        self.second_version = choose.chance(0.4)

    def functionalised(self, op: Any, mutated: list[str], **kwargs: Any) -> fx.Node:
        """A mutating op as functionalisation leaves it, in this graph's version."""
        if not self.second_version:
            return super().functionalised(op, mutated, **kwargs)
        from torch._higher_order_ops.auto_functionalize import auto_functionalized_v2

        bases = [kwargs.pop(name) for name in mutated]
        indices = {f"_{name}_base_index": position for position, name in enumerate(mutated)}
        return self.build.call(auto_functionalized_v2, op, **kwargs, **indices, _all_bases=bases)

    def norm(self, x: fx.Node, weight: fx.Node, epsilon: float) -> fx.Node:
        """The RMS norm, written to an empty tensor."""
        empty = self.build.call(aten.empty_like.default, x, pin_memory=False)
        op = torch.ops._C.rms_norm.default
        return self._item(
            self.functionalised(
                op, ["result"], result=empty, input=x, weight=weight, epsilon=epsilon
            ),
            1,
        )

    def add_norm(
        self, x: fx.Node, residual: fx.Node, weight: fx.Node, epsilon: float
    ) -> tuple[fx.Node, fx.Node]:
        """(normed, x + residual), both written in place of the operands."""
        pair = self.functionalised(
            torch.ops._C.fused_add_rms_norm.default,
            ["input", "residual"],
            input=x,
            residual=residual,
            weight=weight,
            epsilon=epsilon,
        )
        return self._item(pair, 1), self._item(pair, 2)


class Functional(LayerWriter):
    """torch's functional collectives, with the norm in the aten forms that real models show."""

    name = "functional"

    def __init__(self, build: GraphBuilder, choose: Chooser) -> None:
        super().__init__(build, choose)
        self.weight_last = choose.chance(0.5)
        self.scalar_add = choose.chance(0.3)
        self.positive_dim = choose.chance(0.3)
        self.to_copy = choose.chance(0.3)
        self.whole = choose.pick(["", "", "", "rms_norm", "_fused_rms_norm"])

    def all_reduce(self, x: fx.Node, group: str, kind: str = "sum") -> fx.Node:
        """The awaited sum (average, maximum) over the ranks of ``group``."""
        started = self.build.call(torch.ops._c10d_functional.all_reduce.default, x, kind, group)
        return self.build.call(torch.ops._c10d_functional.wait_tensor.default, started)

    def cast(self, x: fx.Node, dtype: torch.dtype) -> fx.Node:
        """``x`` as ``dtype``, as either of the two ops that say so."""
        if self.to_copy:
            return super().cast(x, dtype)
        return self.build.call(torch.ops.prims.convert_element_type.default, x, dtype)

    def norm(self, x: fx.Node, weight: fx.Node, epsilon: float) -> fx.Node:
        """The RMS norm, decomposed, or as one of aten's own ops."""
        call, value = self.build.call, x.meta["val"]
        if self.whole == "rms_norm":
            return call(aten.rms_norm.default, x, [value.shape[-1]], weight, epsilon)
        if self.whole == "_fused_rms_norm":
            return self._item(
                call(aten._fused_rms_norm.default, x, [value.shape[-1]], weight, epsilon), 0
            )
        narrow = value.dtype != torch.float32
        wide = self.cast(x, torch.float32) if narrow else x
        dim = value.dim() - 1 if self.positive_dim else -1
        mean = call(aten.mean.dim, call(aten.pow.Tensor_Scalar, wide, 2), [dim], True)
        add = aten.add.Scalar if self.scalar_add else aten.add.Tensor
        scaled = call(aten.mul.Tensor, wide, call(aten.rsqrt.default, call(add, mean, epsilon)))
        if self.weight_last:
            product = call(aten.mul.Tensor, scaled, weight)
            return self.cast(product, value.dtype) if narrow else product
        return call(aten.mul.Tensor, weight, self.cast(scaled, value.dtype) if narrow else scaled)

    def add_norm(
        self, x: fx.Node, residual: fx.Node, weight: fx.Node, epsilon: float
    ) -> tuple[fx.Node, fx.Node]:
        """(normed, x + residual) of a plain add."""
        summed = self.add(residual, x)
        return self.norm(summed, weight, epsilon), summed


def make_writer(name: str, build: GraphBuilder, choose: Chooser) -> LayerWriter:
    """The writer of the dialect called ``name``.

    Raises:
        ValueError: there is no such dialect.
    """
    for kind in (LayerWriter, CustomOps, Functional):
        if kind.name == name:
            return kind(build, choose)
    raise ValueError(f"no dialect is called {name!r}: choose one of {', '.join(DIALECTS)}")
