"""What happens in an order: writes to tensors, random numbers, calls that nobody can look into.

In a graph that writes, values change. The operators' schemas tell which values a write changes: a
view shares its operand's storage, and any other result has its own.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from spfast.verifier.across import what_it_does
from spfast.verifier.context import Context
from spfast.verifier.kinds import Writes, operator_name
from spfast.verifier.values import Value

__all__ = [
    "is_made_here",
    "is_view",
    "overwrite",
    "perform",
    "share_storage",
    "shared_operand",
    "written_operands",
]

# These operators return an operand where they have nothing to do. Their schemas do not say so.
_RETURN_OPERANDS = frozenset(
    f"aten::{name}"
    for name in """
    _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short
    _to_cpu _unsafe_view alpha_dropout atleast_1d atleast_2d atleast_3d broadcast_tensors
    cartesian_prod chain_matmul conj_physical data dropout einsum feature_alpha_dropout
    feature_dropout flatten_dense_tensors lift meshgrid native_dropout set sum_to_size to_dense
    to_dense_backward type_as unsafe_chunk unsafe_split unsafe_split_with_sizes
    """.split()
)


def perform(
    ctx: Context, node: fx.Node, writes: Writes, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Hashable, Value | None]:
    """Records that ``node`` happens now, and that it changes what it writes to.

    Returns:
        What the node's result is compared by, and the value of its first operand if it returns
        that.
    """
    place = len(ctx.effects)
    written = written_operands(node, writes, args, kwargs)
    memory = tuple([_memory(ctx, operand) for operand in written])
    key = ("effect", place, node.target, ctx.key(args), ctx.key(kwargs), memory)
    term = ctx.store.term(key)
    ctx.effects.append((term, node))
    if what_it_does(node.op, node.target).overwrites:
        whole = (ctx.values[operand].term for operand in written)
        ctx.overwritten[term] = frozenset(whole)
    ctx.moment += 1
    for operand in written:
        ctx.written[ctx.roots.get(operand, operand)] = (term, ctx.moment)
    returned = shared_operand(node.target, args, kwargs)
    if returned is not None and returned in written:
        ctx.roots[node] = ctx.roots.get(returned, returned)
        return key, ctx.read(returned)
    return key, None


def _memory(ctx: Context, operand: fx.Node) -> int | None:
    """The term of the input in whose memory an operand lies; None where the graph made the memory.

    This tells a copy from its original. Both have the same term, but a write to the copy leaves the
    original alone.
    """
    root = ctx.roots.get(operand, operand)
    if isinstance(root, fx.Node) and root.op in ("placeholder", "get_attr"):
        return ctx.values[root].term
    return None


def is_made_here(ctx: Context, node: fx.Node) -> bool:
    """Whether the memory of a value was surely made by an operator of this graph.

    Nobody outside the graph sees what is written to such memory.
    """
    root = ctx.roots.get(node, node)
    if not isinstance(root, fx.Node) or root.op != "call_function":
        return False
    target = root.target
    return isinstance(target, torch._ops.OpOverload) and all(
        result.alias_info is None for result in target._schema.returns
    )


def overwrite(ctx: Context, node: fx.Node, operand: fx.Node, was: int, term: int) -> None:
    """Notes that ``operand`` changes from the term ``was`` to ``term`` now. This is no effect.

    The result of ``node`` is taken to lie in other memory.
    """
    write = ctx.store.term(("overwritten", term))
    ctx.moment += 1
    ctx.written[ctx.roots.get(operand, operand)] = (write, ctx.moment)
    ctx.overwritten[write] = frozenset({was})
    ctx.apart.setdefault(node, []).append(write)


def share_storage(
    ctx: Context, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Notes whose storage ``node`` shares, in a graph that writes to tensors."""
    ctx.born[node] = ctx.moment
    source = shared_operand(node.target, args, kwargs)
    if source is None or node in ctx.apart:
        return
    if node.target is operator.getitem:
        root = ctx.roots.get(source)
        ctx.roots[node] = ("item", source, args[1]) if root is None else root
    else:
        ctx.roots[node] = ctx.roots.get(source, source)


def shared_operand(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.Node | None:
    """The operand in whose storage the result lies, given by position or by keyword; or none."""
    place = _shared_argument(target)
    if place is None:
        return None
    position, name = place
    operand = args[position] if position < len(args) else kwargs.get(name)
    if isinstance(operand, (list, tuple)) and len(operand) == 1:
        operand = operand[0]
    return operand if isinstance(operand, fx.Node) else None


@functools.lru_cache(maxsize=1024)
def _shared_argument(target: Any) -> tuple[int, str] | None:
    if target is operator.getitem:
        return 0, ""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    schema = target._schema
    if schema.name in _RETURN_OPERANDS:
        # The tensors of einsum come after its equation.
        position = next(
            at for at, each in enumerate(schema.arguments) if "Tensor" in str(each.type)
        )
        return position, schema.arguments[position].name
    if is_view(target):
        return 0, schema.arguments[0].name
    alias = schema.returns[0].alias_info if len(schema.returns) == 1 else None
    if alias is None:
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.before_set & alias.before_set:
            return position, argument.name
    return None


def written_operands(
    node: fx.Node, writes: Writes, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Sequence[fx.Node]:
    """The operands that a node writes to."""
    if writes.arguments is None:
        return node.all_input_nodes
    given = [
        args[position] if position < len(args) else kwargs.get(name)
        for position, name in writes.arguments
    ]
    written: list[fx.Node] = []
    for value in given:
        listed = value if isinstance(value, (list, tuple)) else (value,)
        written.extend(item for item in listed if isinstance(item, fx.Node))
    return written


@functools.lru_cache(maxsize=1024)
def is_view(target: Any) -> bool:
    """Says whether an operator's result shares the storage of its first operand."""
    if operator_name(target).endswith("::wait_tensor"):
        return True
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.arguments:
        return False
    alias = target._schema.arguments[0].alias_info
    return alias is not None and not alias.is_write
