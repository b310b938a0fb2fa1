"""The rules of the peers, as search and replacement functions over tensors: what a pass author
writes today.

One list for every peer that is driven by such functions. As in vLLM's pass, each rule exists once
per epsilon, the quantised ones come first, and a residual is sliced to this rank's rows by the
replacement: the slice is needed while the residual is still full, and becomes a no-op (removed by
``cleanup``) once the site before it was rewritten too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch._higher_order_ops.auto_functionalize import auto_functionalized

from ..workloads import declare_ops
from .peer import Setting

aten = torch.ops.aten
EPSILONS = (1e-5, 1e-6)
BF16, F32, FP8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
Tensors = tuple[torch.Tensor, ...]


def undecomposed(function: Callable[..., Any]) -> dict[str, Any]:
    """What asks a function of torch's matcher to trace without decompositions, if it can."""
    asked = "get_decomp_fn" in inspect.signature(function).parameters
    return {"get_decomp_fn": dict} if asked else {}


@dataclass(frozen=True)
class Rule:
    """One rewrite: what to look for, what to put there, and example inputs to trace both."""

    name: str
    search: Callable[..., Tensors]
    replace: Callable[..., Tensors]
    inputs: Callable[[], list[torch.Tensor]]


def rules(setting: Setting) -> list[Rule]:
    """All rules of the setting's dialect, in the order of registration."""
    declare_ops()
    make = _vllm_rules if setting.dialect == "vllm_ir" else _functional_rules
    return [rule for epsilon in EPSILONS for rule in make(setting, epsilon)]


# --- vLLM's dialect -------------------------------------------------------------------------------


def _vllm_rules(setting: Setting, epsilon: float) -> list[Rule]:
    ops, ir, tp, group = torch.ops.vllm, torch.ops.vllm_ir, setting.tp_size, setting.group

    def scatter(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = ops.reduce_scatter.default(x, 0, tp, group)
        return out

    def gather(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = ops.all_gather.default(x, 0, tp, group)
        return out

    def own_rows(residual: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        local = like.size(0)
        return residual[setting.tp_rank * local : (setting.tp_rank + 1) * local, ...]

    def first(x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = ops.all_reduce.default(x, group)
        return ir.rms_norm.default(reduced, w, epsilon), reduced

    def first_local(x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = scatter(x)
        return gather(ir.rms_norm.default(reduced, w, epsilon)), reduced

    def middle(residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = ops.all_reduce.default(x, group)
        normed, out = ir.fused_add_rms_norm.default(reduced, residual, w, epsilon)
        return normed, out

    def middle_local(residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = scatter(x)
        own = own_rows(residual, reduced)
        normed, out = ir.fused_add_rms_norm.default(reduced, own, w, epsilon)
        return gather(normed), out

    found = []
    if setting.quantised == "custom_op":
        found += _quant_op_rules(setting, epsilon, scatter, gather, own_rows)
    elif setting.quantised == "native":
        found += _native_quant_rules(setting, epsilon, scatter, gather, own_rows)
    found.append(Rule(f"first_{epsilon}", first, first_local, lambda: [_x(), _w()]))
    found.append(Rule(f"middle_{epsilon}", middle, middle_local, lambda: [_x(), _x(), _w()]))
    return found


def _quant_op_rules(
    setting: Setting, epsilon: float, scatter: Any, gather: Any, own_rows: Any
) -> list[Rule]:
    ops, ir, group = torch.ops.vllm, torch.ops.vllm_ir, setting.group
    op = torch.ops._C.static_scaled_fp8_quant.default

    def quant(out: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        both = auto_functionalized(op, result=out, input=x, scale=scale)
        result: torch.Tensor = both[1]
        return result

    def quant_local(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        out = aten.empty.memory_format(
            [x.size(0), x.size(1)], dtype=FP8, device=x.device, pin_memory=False
        )
        return quant(out, x, scale)

    def first(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, s: torch.Tensor) -> Tensors:
        reduced = ops.all_reduce.default(x, group)
        return quant(out, ir.rms_norm.default(reduced, w, epsilon), s), reduced

    def first_local(
        out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, s: torch.Tensor
    ) -> Tensors:
        reduced = scatter(x)
        return gather(quant_local(ir.rms_norm.default(reduced, w, epsilon), s)), reduced

    def middle(
        out: torch.Tensor, residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor, s: torch.Tensor
    ) -> Tensors:
        reduced = ops.all_reduce.default(x, group)
        normed, summed = ir.fused_add_rms_norm.default(reduced, residual, w, epsilon)
        return quant(out, normed, s), summed

    def middle_local(
        out: torch.Tensor, residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor, s: torch.Tensor
    ) -> Tensors:
        reduced = scatter(x)
        own = own_rows(residual, reduced)
        normed, summed = ir.fused_add_rms_norm.default(reduced, own, w, epsilon)
        return gather(quant_local(normed, s)), summed

    return [
        Rule(f"first_fp8_{epsilon}", first, first_local, lambda: [_x(FP8), _x(), _w(), _s()]),
        Rule(
            f"middle_fp8_{epsilon}", middle, middle_local,
            lambda: [_x(FP8), _x(), _x(), _w(), _s()],
        ),
    ]  # fmt: skip


def _native_quant_rules(
    setting: Setting, epsilon: float, scatter: Any, gather: Any, own_rows: Any
) -> list[Rule]:
    ops, ir, group = torch.ops.vllm, torch.ops.vllm_ir, setting.group

    def quant(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        scaled = aten._to_copy.default(x, dtype=F32) * aten.reciprocal.default(scale)
        clamped = aten.clamp.default(scaled, -448.0, 448.0)
        out: torch.Tensor = aten._to_copy.default(clamped, dtype=FP8)
        return out

    def first(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor) -> Tensors:
        reduced = ops.all_reduce.default(x, group)
        return quant(ir.rms_norm.default(reduced, w, epsilon), s), reduced

    def first_local(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor) -> Tensors:
        reduced = scatter(x)
        return gather(quant(ir.rms_norm.default(reduced, w, epsilon), s)), reduced

    def middle(
        residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor, s: torch.Tensor
    ) -> Tensors:
        reduced = ops.all_reduce.default(x, group)
        normed, summed = ir.fused_add_rms_norm.default(reduced, residual, w, epsilon)
        return quant(normed, s), summed

    def middle_local(
        residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor, s: torch.Tensor
    ) -> Tensors:
        reduced = scatter(x)
        own = own_rows(residual, reduced)
        normed, summed = ir.fused_add_rms_norm.default(reduced, own, w, epsilon)
        return gather(quant(normed, s)), summed

    return [
        Rule(f"first_fp8_{epsilon}", first, first_local, lambda: [_x(), _w(), _s()]),
        Rule(f"middle_fp8_{epsilon}", middle, middle_local, lambda: [_x(), _x(), _w(), _s()]),
    ]


# --- functional collectives, decomposed norm ------------------------------------------------------


def _functional_rules(setting: Setting, epsilon: float) -> list[Rule]:
    ops, tp, group = torch.ops._c10d_functional, setting.tp_size, setting.group
    cast = torch.ops.prims.convert_element_type.default

    def all_reduce(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = ops.wait_tensor.default(ops.all_reduce.default(x, "sum", group))
        return out

    def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        wide = cast(x, F32)
        mean = aten.mean.dim(aten.pow.Tensor_Scalar(wide, 2), [-1], True)
        root = aten.rsqrt.default(aten.add.Tensor(mean, epsilon))
        out: torch.Tensor = aten.mul.Tensor(w, cast(aten.mul.Tensor(wide, root), BF16))
        return out

    def scatter(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.size(-1)) if setting.three_d else x
        started = ops.reduce_scatter_tensor.default(rows, "sum", tp, group)
        out: torch.Tensor = ops.wait_tensor.default(started)
        return out

    def gather(normed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        started = ops.all_gather_into_tensor.default(normed, tp, group)
        out: torch.Tensor = ops.wait_tensor.default(started)
        return out.reshape(x.shape) if setting.three_d else out

    def first(x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = all_reduce(x)
        return norm(reduced, w), reduced

    def first_local(x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = scatter(x)
        return gather(norm(reduced, w), x), reduced

    def middle(residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Tensors:
        summed = aten.add.Tensor(residual, all_reduce(x))
        return norm(summed, w), summed

    def middle_local(residual: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Tensors:
        reduced = scatter(x)
        rows = residual.reshape(-1, residual.size(-1)) if setting.three_d else residual
        local = reduced.size(0)
        own = rows[setting.tp_rank * local : (setting.tp_rank + 1) * local]
        summed = aten.add.Tensor(own, reduced)
        return gather(norm(summed, w), x), summed

    def x_like() -> torch.Tensor:
        return torch.empty((2, 16, 16) if setting.three_d else (16, 16), dtype=BF16)

    return [
        Rule(f"first_{epsilon}", first, first_local, lambda: [x_like(), _w()]),
        Rule(f"middle_{epsilon}", middle, middle_local, lambda: [x_like(), x_like(), _w()]),
    ]


def _x(dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty((16, 16), dtype=dtype)


def _w() -> torch.Tensor:
    return torch.empty((16,), dtype=BF16)


def _s() -> torch.Tensor:
    return torch.empty((1, 1), dtype=F32)


# --- afterwards -----------------------------------------------------------------------------------

_RESHAPES = (aten.view.default, aten.reshape.default)
_SIZES = (aten.sym_size.int,)


def cleanup(graph: fx.Graph) -> None:
    """Removes what the rules leave: slices and reshapes that became no-ops, and what nobody reads.

    The counterpart of the no-op pass that runs behind vLLM's.
    """
    for node in graph.find_nodes(op="call_function", target=aten.slice.Tensor):
        source = node.args[0]
        while source.target in _RESHAPES and _rank(source) == 2:
            source = source.args[0]
        if _same_shape(node, source):
            node.replace_all_uses_with(source)
            _erase_dead(graph, node)
    for target in _RESHAPES:
        for node in graph.find_nodes(op="call_function", target=target):
            source = node.args[0]
            while source.target in _RESHAPES:
                source = source.args[0]
            if not node.users:
                _erase_dead(graph, node)
            elif _same_shape(node, source):
                node.replace_all_uses_with(source)
                _erase_dead(graph, node)
            elif node.target is aten.view.default:
                node.target = aten.reshape.default


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


def _same_shape(a: fx.Node, b: fx.Node) -> bool:
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    left, right = a.meta["val"].shape, b.meta["val"].shape
    if len(left) != len(right):
        return False
    return all(x is y or statically_known_true(x == y) for x, y in zip(left, right, strict=True))


def _erase_dead(graph: fx.Graph, node: fx.Node) -> None:
    """Erases a node without users, and its inputs that nobody reads after that."""
    stack = [node]
    while stack:
        dead = stack.pop()
        if dead.users or dead.op != "call_function":
            continue
        inputs = list(dead.all_input_nodes)
        graph.erase_node(dead)
        stack += [i for i in inputs if not i.users]
