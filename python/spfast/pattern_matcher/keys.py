"""Hashable keys for the metadata on which a trace depends, with and without a graph's symbols.

Search and replacement functions are traced under fake tensors that have only sizes, strides, a
dtype and a device. So two matches whose arguments agree in these have the same trace. Within one
graph the key names the graph's symbols. Across graphs the symbols are renamed in the order in which
they occur, and everything known of them (ranges, guards) becomes part of the key.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor

from spfast.pattern_matcher.vals import Unshareable, dim_of

__all__ = [
    "Canonical",
    "RawKey",
    "Symbolic",
    "canonicalise",
    "env_state",
    "own_symbols",
    "quick_key",
    "raw_key",
]

RawKey = tuple[Hashable, ...]


@dataclass(frozen=True)
class Symbolic:
    """A symbolic number inside a key; a class of its own, since Integer(8) == 8 in sympy."""

    expr: sympy.Expr


_PLAIN = (int, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def _dim_key(value: Any, envs: list[Any]) -> Hashable:
    dim = dim_of(value)
    if isinstance(dim, int):
        return dim
    if not any(env is value.node.shape_env for env in envs):
        envs.append(value.node.shape_env)
    return Symbolic(dim)


def _value_key(value: Any, envs: list[Any]) -> Hashable:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise Unshareable(f"an argument of layout {value.layout}")
        size, stride = value.shape, value.stride()
        try:
            hash((size, stride))
        except TypeError:  # symbolic sizes do not hash
            return (
                "tensor",
                tuple(_dim_key(n, envs) for n in size),
                tuple(_dim_key(n, envs) for n in stride),
                value.dtype,
                value.device,
            )
        return ("tensor", tuple(size), stride, value.dtype, value.device)
    if isinstance(value, torch.SymInt):
        return ("sym", _dim_key(value, envs))
    if type(value) in _PLAIN:
        return (type(value), value)
    if type(value) is float:
        return (float, value.hex())
    raise Unshareable(f"an argument of type {type(value).__name__}")


def raw_key(values: Sequence[Any]) -> tuple[RawKey, Any]:
    """The key of argument values within one graph, and the ShapeEnv that they use (or None).

    Args:
        values: The meta values of the arguments, in order: tensors, numbers, None and the like.

    Raises:
        Unshareable: One of them is of a kind that cannot be compared.
    """
    envs: list[Any] = []
    key = tuple(_value_key(value, envs) for value in values)
    if len(envs) > 1:
        raise Unshareable("arguments of different shape environments")
    return key, envs[0] if envs else None


def quick_key(values: Sequence[Any]) -> Hashable:
    """A key that tells values of one graph apart at least as well as `raw_key`, in less time.

    None if a value is of another kind than fake tensors, symbolic numbers and plain values.
    """
    parts: list[Hashable] = []
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            shape, stride = value.shape, value.stride()
            if value._has_symbolic_sizes_strides:
                dims = [n if type(n) is int else n.node._expr for n in (*shape, *stride)]
                shape, stride = len(shape), tuple(dims)
            mode = id(value.fake_mode)
            parts.append((shape, stride, value.dtype, value.fake_device, value.layout, mode))
        elif kind in _PLAIN:
            parts.append((kind, value))
        elif kind is torch.SymInt:
            parts.append((kind, value.node._expr, id(value.node.shape_env)))
        else:
            return None
    return tuple(parts)


def env_state(env: Any) -> Hashable:
    """Changes whenever a ShapeEnv learns something: a guard, a replacement, a new symbol."""
    if env is None:
        return None
    return (
        len(env.guards),
        len(env.replacements),
        len(env.divisible),
        len(env.var_to_range),
        sum(len(found) for found in env.deferred_runtime_asserts.values()),
    )


@dataclass(frozen=True)
class Canonical:
    """A key that is equal for equal situations in different graphs.

    Attributes:
        key: The renamed key together with what is known of each symbol.
        to_canonical: Rewrites an expression of the graph; raises Unshareable on a foreign symbol.
        symbols: The graph's own SymInt for each canonical symbol.
    """

    key: Hashable
    to_canonical: Callable[[sympy.Expr], sympy.Expr]
    symbols: dict[sympy.Symbol, torch.SymInt]


def _symbolic_dims(values: Sequence[Any]) -> list[torch.SymInt]:
    found: list[torch.SymInt] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.extend(n for n in (*value.shape, *value.stride()) if isinstance(n, torch.SymInt))
        elif isinstance(value, torch.SymInt):
            found.append(value)
    return found


def _numbers(dims: Sequence[torch.SymInt]) -> dict[sympy.Symbol, torch.SymInt]:
    """A SymInt for each symbol: a size, or a new one where no size is the symbol itself."""
    found = {dim.node.expr: dim for dim in reversed(dims) if dim.node.expr.is_Symbol}
    for dim in dims:
        for symbol in dim.node.expr.free_symbols - found.keys():
            found[symbol] = dim.node.shape_env.create_symintnode(symbol, hint=None)
    return found


def _facts(env: Any, renaming: dict[sympy.Symbol, sympy.Symbol]) -> Hashable:
    own = set(renaming)
    facts: list[Hashable] = []
    for symbol in renaming:
        bounds = env.var_to_range.get(symbol)
        facts.append((str(bounds), bool(env.is_unbacked_symint(symbol))))
        if env.deferred_runtime_asserts.get(symbol):
            raise Unshareable("a symbol with runtime assertions")
    for expr in env.divisible:
        if expr.free_symbols & own:
            raise Unshareable("a symbol with known divisors")
    guards: set[str] = set()
    for guard in env.guards:
        free = guard.expr.free_symbols
        if free and free <= own:
            guards.add(str(guard.expr.xreplace(renaming)))
        elif free & own:
            raise Unshareable("a guard ties an argument's symbol to another one")
    facts.append(tuple(sorted(guards)))
    return tuple(facts)


def canonicalise(key: RawKey, values: Sequence[Any], env: Any) -> Canonical:
    """Renames the graph's symbols in a key.

    Raises:
        Unshareable: What is known of the symbols cannot be said in the key.
    """
    if env is None:
        return Canonical(key, _no_symbols, {})
    dims = _symbolic_dims(values)
    renaming: dict[sympy.Symbol, sympy.Symbol] = {}
    for dim in dims:
        for symbol in sorted(dim.node.expr.free_symbols, key=str):
            if symbol not in renaming:
                name = f"c{len(renaming)}"
                renaming[symbol] = sympy.Symbol(name, **symbol.assumptions0)
    symbols = {renaming[symbol]: number for symbol, number in _numbers(dims).items()}

    def to_canonical(expr: sympy.Expr) -> sympy.Expr:
        if not expr.free_symbols <= renaming.keys():
            raise Unshareable("the trace made a symbol of its own")
        return expr.xreplace(renaming)

    def rename(part: Any) -> Hashable:
        if isinstance(part, Symbolic):
            return Symbolic(to_canonical(part.expr))
        return tuple(rename(item) for item in part) if type(part) is tuple else part

    return Canonical((rename(key), _facts(env, renaming)), to_canonical, symbols)


def _no_symbols(expr: sympy.Expr) -> sympy.Expr:
    if expr.free_symbols:
        raise Unshareable("the trace made a symbol of its own")
    return expr


def own_symbols(key: RawKey, values: Sequence[Any]) -> Canonical:
    """A key for this graph alone: its symbols keep their names."""
    symbols = _numbers(_symbolic_dims(values))

    def known(expr: sympy.Expr) -> sympy.Expr:
        if not expr.free_symbols <= symbols.keys():
            raise Unshareable("the replacement needs a symbol that no argument has in its sizes")
        return expr

    return Canonical(key, known, symbols)
