"""Matrix products, in the forms in which graphs spell them, as one description."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.async_tp.reading import arguments, is_view, tensor
from spfast.graphs import only_reader
from spfast.targets import target_name

__all__ = ["Product", "Scales", "product"]

_aten = torch.ops.aten
_FLOAT8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})


@dataclass(frozen=True)
class Scales:
    """How a product of float8 values is scaled.

    Attributes:
        left: One number, or one a row [M, 1], float32.
        right: One number, or one a column [1, N], float32.
        bias: What is added before rounding, [N]; or None.
        result: Scales the result; or None.
        out_dtype: The result's dtype.
        fast: Whether sums may be kept in less than float32.
    """

    left: fx.Node
    right: fx.Node
    bias: fx.Node | None
    result: fx.Node | None
    out_dtype: torch.dtype
    fast: bool

    @property
    def by_row(self) -> bool:
        """Whether each row has a scale of its own."""
        value = tensor(self.left)
        return value is not None and not _is_one(value)


@dataclass(frozen=True)
class Product:
    """A matrix product [M, K] x [K, N].

    Attributes:
        value: The node that yields it, [M, N].
        left: Where its left operand is read, [M, K]; bmm_fp8 reads [1, M, K].
        right: Its right operand, [K, N].
        scales: Of a product of float8 values; else None.
        addend: What is added to it afterwards; or None.
        inside: The nodes of which it consists, first to last.
        buffers: What it alone reads, of no use once it is gone.
        viewed: What ``left`` is a view of, where it is no matrix itself; else None.
    """

    value: fx.Node
    left: fx.Node
    right: fx.Node
    scales: Scales | None
    addend: fx.Node | None
    inside: tuple[fx.Node, ...]
    buffers: tuple[fx.Node, ...] = ()
    viewed: fx.Node | None = None

    @property
    def matrix(self) -> fx.Node:
        """Its left operand, [M, K]."""
        return self.left if self.viewed is None else self.viewed

    @property
    def operands(self) -> tuple[fx.Node, ...]:
        """All that it reads but its left operand and that one's scale."""
        scales = self.scales
        given = (self.right, self.addend) if scales is None else (
            self.right, scales.right, scales.bias, scales.result
        )  # fmt: skip
        return tuple([node for node in given if node is not None])


def product(node: fx.Node) -> Product | str | None:
    """Reads a node as a matrix product.

    Returns:
        None where it is none; a reason where it is one that no fused operator computes.
    """
    if node.op != "call_function":
        return None
    target: Any = node.target
    if target is _aten.mm.default:
        left, right = node.args
        return _checked(Product(node, left, right, None, None, (node,)))  # type: ignore[arg-type]
    if target is _aten.addmm.default:
        return _addmm(node)
    if target is _aten._scaled_mm.default:
        return _scaled_mm(node)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _cutlass(node)
    if target_name(target) == "vllm.bmm_fp8.default":
        return _bmm_fp8(node)
    return None


def _addmm(node: fx.Node) -> Product | str:
    if any(value != 1 for value in node.kwargs.values()) or len(node.args) != 3:
        return "its matrix product is scaled by a number"
    addend, left, right = node.args
    return _checked(Product(node, left, right, None, addend, (node,)))  # type: ignore[arg-type]


def _scaled_mm(node: fx.Node) -> Product | str:
    given = arguments(node)
    out = tensor(node)
    if out is None:
        return "the shape of its matrix product is not known"
    scales = Scales(
        given["scale_a"],
        given["scale_b"],
        given["bias"],
        given["scale_result"],
        out.dtype,
        bool(given["use_fast_accum"]),
    )
    return _checked(Product(node, given["self"], given["mat2"], scales, None, (node,)))


def _cutlass(node: fx.Node) -> Product | str | None:
    """vLLM's cutlass_scaled_mm, which writes to a buffer, in either functionalised form."""
    if not node.args or target_name(node.args[0]) != "_C.cutlass_scaled_mm.default":
        return None
    given: dict[str, Any] = dict(node.kwargs)
    value = only_reader(node)
    if value is None or value.target is not operator.getitem or value.args[1] != 1:
        return "what its cutlass_scaled_mm returns is read in several ways"
    bases: Any = given.get("_all_bases")
    buffer = given.get("out") if bases is None else bases[given.get("_out_base_index", 0)]
    if bases is not None and len(bases) != 1:
        return "its cutlass_scaled_mm writes to several buffers"
    out = tensor(value)
    if out is None or not isinstance(buffer, fx.Node):
        return "the shape of its matrix product is not known"
    scales = Scales(given["a_scales"], given["b_scales"], given.get("bias"), None, out.dtype, False)
    return _checked(Product(value, given["a"], given["b"], scales, None, (node, value), (buffer,)))


def _bmm_fp8(node: fx.Node) -> Product | str:
    """FlashInfer's: [1, M, K] x [1, K, N], each scaled by one number, viewed as [M, N]."""
    given = arguments(node)
    left, wide, out = given["A"], given["B"], tensor(node)
    rows, columns = tensor(left), tensor(wide)
    if rows is None or columns is None or out is None:
        return "the shape of its matrix product is not known"
    if rows.shape[0] != 1 or columns.shape[0] != 1:
        return "its bmm_fp8 multiplies several matrices"
    right: Any = wide.args[0] if is_view(wide) else None
    viewed: Any = left.args[0] if is_view(left) else None
    if not _is_matrix(right) or not _is_matrix(viewed):
        return "its bmm_fp8 multiplies what is no view of one matrix"
    value = only_reader(node)
    shown = tensor(value)
    if value is None or shown is None or not is_view(value) or shown.dim() != 2:
        return "what its bmm_fp8 returns is not viewed as one matrix"
    scales = Scales(given["A_scale"], given["B_scale"], None, None, out.dtype, False)
    return _checked(Product(value, left, right, scales, None, (node, value), (wide, left), viewed))


def _is_matrix(node: Any) -> bool:
    value = tensor(node)
    return value is not None and value.dim() == 2


def _is_one(value: torch.Tensor) -> bool:
    return all(type(size) is int and size == 1 for size in value.shape)


def _checked(found: Product) -> Product | str:
    """The product, if a fused operator computes the same."""
    left, right, out = tensor(found.left), tensor(found.right), tensor(found.value)
    if left is None or right is None or out is None or right.dim() != 2:
        return "the shape of its matrix product is not known"
    scales = found.scales
    if scales is None:
        if left.dtype == right.dtype == out.dtype and left.dtype.is_floating_point:
            return found
        return "its matrix product changes the dtype"
    if left.dtype not in _FLOAT8 or right.dtype not in _FLOAT8:
        return f"its matrix product is of {str(left.dtype).removeprefix('torch.')}, not of float8"
    if type(right.stride(0)) is not int or right.stride(0) != 1:
        return "the right operand of its float8 product is not column-major"
    mine, theirs = tensor(scales.left), tensor(scales.right)
    if mine is None or theirs is None or {mine.dtype, theirs.dtype} != {torch.float32}:
        return "the scales of its float8 product are not known"
    if _is_one(mine) and _is_one(theirs):
        return found
    if mine.dim() == 2 and mine.shape[1] == 1 and theirs.dim() == 2 and theirs.shape[0] == 1:
        if out.dtype == torch.bfloat16 and scales.result is None:
            return found
        return "a float8 product with a scale a row yields bfloat16 alone"
    return "one operand of its float8 product has one scale, and the other a scale a row"
