"""One pass over one graph: what each node holds, as a value that both graphs spell alike."""

from __future__ import annotations

import functools
import operator
from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import fx

from spfast.verifier import moves, norms, products
from spfast.verifier.along import along
from spfast.verifier.called import writes_at
from spfast.verifier.context import Context, Rule
from spfast.verifier.dims import SYMBOLIC_OPERATORS
from spfast.verifier.effects import perform, share_storage
from spfast.verifier.elementwise import elementwise
from spfast.verifier.expand import expand
from spfast.verifier.kinds import (
    ALONG,
    COLLECTIVES,
    IDENTITIES,
    LIKE,
    NORMS,
    REDUCTIONS,
    VIEWS,
    WAITS,
    Writes,
    is_elementwise,
    operator_name,
    writes_of,
)
from spfast.verifier.layout import reads_memory, strides_of
from spfast.verifier.snapshot import Entry
from spfast.verifier.totals import total
from spfast.verifier.values import Kind, Value

__all__ = ["walk"]


def _slice(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """Rows of dim 0, or the same part of every row."""
    value = moves.slice_rows(ctx, node, target, args, kwargs)
    if value is not None or ctx.why is not None:
        return value
    return along(ctx, node, target, args, kwargs)


def _auto_functionalized(
    ctx: Context, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """An operator that writes to buffers, made to return them."""
    if args and operator_name(args[0]) == "_C::cutlass_scaled_mm":
        return products.cutlass(ctx, node, args, kwargs)
    return norms.auto_functionalized(ctx, node, target, args, kwargs)


_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(COLLECTIVES, moves.collective),
    **dict.fromkeys(WAITS, moves.wait),
    **dict.fromkeys(VIEWS, moves.view),
    **dict.fromkeys(IDENTITIES, moves.identity),
    **dict.fromkeys(REDUCTIONS, norms.reduction),
    **dict.fromkeys(ALONG, along),
    **dict.fromkeys((name for name, norm in NORMS.items() if not norm.writes), norms.norm),
    "aten::sum.dim_IntList": total,
    "aten::constant_pad_nd": moves.pad,
    "aten::copy": moves.copy,
    "aten::expand": expand,
    "aten::view.dtype": moves.bits,
    "aten::slice.Tensor": _slice,
    "aten::narrow": moves.slice_rows,
    "aten::sym_size.int": moves.size,
    "auto_functionalized": _auto_functionalized,
    "auto_functionalized_v2": _auto_functionalized,
    "aten::addmm": products.addmm,
    "aten::_scaled_mm": products.scaled,
    "vllm::bmm_fp8": products.scaled_batch,
    **products.FUSED,
}


def _rule_of(target: Any) -> Rule | None:
    if target is operator.getitem:
        return moves.getitem
    if target in SYMBOLIC_OPERATORS:
        return moves.number
    name = operator_name(target)
    rule = _BY_NAME.get(name)
    if rule is None and (name in LIKE or is_elementwise(target)):
        return elementwise
    return rule


@functools.lru_cache(maxsize=1024)
def _look_up(op: str, target: Any) -> tuple[Rule | None, Writes]:
    writes = writes_of(op, target)
    is_ruled = op == "call_function" and (
        not writes.ordered or operator_name(target) in COLLECTIVES
    )
    return (_rule_of(target) if is_ruled else None, writes)


def walk(ctx: Context, entries: Iterable[Entry]) -> None:
    """Fills ``ctx.values``, ``ctx.effects`` and ``ctx.problems`` from a graph's nodes in order."""
    entries = list(entries)
    looked_up: dict[Any, tuple[Rule | None, Writes]] = {}
    for _, op, target, _, _, _ in entries:
        if op == "call_function" and target not in looked_up:
            looked_up[target] = _look_up(op, target)
    # Only where something is written does it matter who shares storage with whom.
    is_written = any(writes.any for _, writes in looked_up.values()) or any(
        op in ("call_module", "call_method") for _, op, _, _, _, _ in entries
    )
    is_written |= any(writes.arguments for writes in ctx.called.values())
    _note_given(ctx, entries)
    values, vals = ctx.values, ctx.vals
    inputs = 0
    for node, op, target, args, kwargs, val in entries:
        vals[node] = val
        if op == "call_function":
            rule, writes = looked_up[target]
        elif op == "output":
            continue
        elif op == "placeholder":
            values[node] = _made(ctx, ("input", inputs), val)
            inputs += 1
            continue
        elif op == "get_attr":
            values[node] = _made(ctx, ("attribute", target), val)
            continue
        else:
            rule, writes = _look_up(op, target)
        if ctx.called:
            of_graphs = writes_at(op, target, args, ctx.called)
            if of_graphs is not None:
                rule, writes = None, of_graphs
        ctx.why, ctx.node = None, node
        if ctx.written:
            _note_reads(ctx, node, args, kwargs)
        try:
            value = None
            if rule is not None:
                try:
                    value = rule(ctx, node, target, args, kwargs)
                except (IndexError, TypeError, ValueError):
                    pass  # arguments that the operator itself would refuse
            if value is None:
                value = _opaque(ctx, node, writes, args, kwargs, val)
        except KeyError as missing:
            if not isinstance(missing.args[0], fx.Node):
                raise
            ctx.problems[node] = f"reads {missing.args[0].name!r} before it is computed"
            value = ctx.store.wrong
        if is_written:
            share_storage(ctx, node, args, kwargs)
        if ctx.store.has_data:
            _meet_numbers(ctx, node, args, kwargs, value)
        values[node] = value


def _note_given(ctx: Context, entries: Iterable[Entry]) -> None:
    """Notes the numbers among the inputs that are no input's size: a rank may have its own."""
    inputs = [val for _, op, _, _, _, val in entries if op == "placeholder"]
    numbers = [val for val in inputs if isinstance(val, torch.SymInt)]
    if not numbers:
        return
    sizes: set[Any] = set()
    for val in inputs:
        if isinstance(val, torch.Tensor):
            for size in (*val.shape, *val.stride(), val.storage_offset()):
                if isinstance(size, torch.SymInt):
                    sizes |= size.node.expr.free_symbols
    for number in numbers:
        ctx.store.given |= number.node.expr.free_symbols - sizes


def _opaque(
    ctx: Context,
    node: fx.Node,
    writes: Writes,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    val: Any,
) -> Value:
    """An operator that is compared as it is: the same one, on the same operands held whole."""
    why = ctx.why
    ctx.opaque.add(node)
    if ctx.is_after:
        operands = [(operand, ctx.read(operand)) for operand in node.all_input_nodes]
        if any(value.kind is Kind.WRONG for _, value in operands):
            return _wrong(ctx, node, writes)
    key: Hashable = (node.target, ctx.key(args), ctx.key(kwargs))
    if node.op == "call_function" and reads_memory(node.target):
        lie = [ctx.vals.get(operand) for operand in _operands(args, kwargs)]
        key = (key, strides_of(ctx.dims, lie))
    if ctx.is_after and key not in ctx.store.results:
        for operand, value in operands:
            if not _is_whole(value):
                why = why or f"needs a full value, but {operand.name!r} is {value.describe()}"
        if why is not None:
            ctx.problems[node] = why
            return _wrong(ctx, node, writes)
    if writes.ordered:
        key, same = perform(ctx, node, writes, args, kwargs)
        if same is not None:
            return same
    found = ctx.store.results.get(key)
    if found is None:
        found = ctx.store.results[key] = _made(ctx, key, val)
    return found


def _wrong(ctx: Context, node: fx.Node, writes: Writes) -> Value:
    if writes.ordered:  # keep the count, so that the effects after it are compared in step
        ctx.effects.append((ctx.store.term(("wrong", node.name)), node))
    return ctx.store.wrong


def _is_whole(value: Value) -> bool:
    if value.kind is Kind.TUPLE:
        return all(part is None or _is_whole(part) for part in value.parts)
    return value.kind in (Kind.FULL, Kind.SCALAR)


def _made(ctx: Context, key: Hashable, val: Any) -> Value:
    """The value of something that is only known by its key, with the sizes of its fake value."""
    if isinstance(val, (tuple, list)):
        return ctx.store.tuple(
            tuple(
                None if part is None else _made(ctx, ("part", key, index), part)
                for index, part in enumerate(val)
            )
        )
    if isinstance(val, torch.SymInt) or type(val) is int:
        number = ctx.dims.of(val)
        return ctx.store.scalar(number)
    return ctx.store.full(ctx.store.term(key), ctx.dims.shape_of(val))


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[fx.Node]:
    """The operands of a node in the snapshot; by now the node may read others."""
    found: list[fx.Node] = []
    fx.node.map_arg((args, kwargs), found.append)
    return found


def _note_reads(ctx: Context, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keeps what a node reads now, after the writes so far."""
    known = [operand for operand in _operands(args, kwargs) if operand in ctx.values]
    ctx.reads[node] = {operand: ctx.read(operand) for operand in known}


def _meet_numbers(
    ctx: Context, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], result: Value
) -> None:
    """Notes the numbers, read out of some tensor, with which rows of one rank were computed."""
    parts = result.parts if result.kind is Kind.TUPLE else (result,)
    group = next((part.group for part in parts if part and part.kind is Kind.SHARD), None)
    if group is None:
        return
    for operand in _operands(args, kwargs):
        value = ctx.values[operand]
        if value.kind is Kind.SCALAR and ctx.store.is_data(value.number):
            ctx.meet(operand, value.term, group)
