"""Torch's pattern expressions lowered to native programs; or the reason why one has none.

An expression is lowered only if it is exactly one of torch's classes: a subclass may match by rules
of its own, and then torch's way of asking the object is the only right one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils._pytree import tree_is_leaf

from spfast._core import ExprMatch, ExprProgram
from spfast.pattern_matcher.shelf import shelf_of

__all__ = ["Route", "route_of"]

_CALLS = (stock.CallFunction, stock.CallMethod, stock.CallModule)
_VARARGS = (stock.CallFunctionVarArgs, stock.CallMethodVarArgs, stock.CallModuleVarArgs)
_SEQUENCES = (tuple, list, immutable_list)
_MAPPINGS = (dict, immutable_dict)
# Before torch 2.13, torch's own search may visit the first match twice.
_REPEATS_AS_KNOWN = torch.__version__ >= (2, 13)  # type: ignore[operator]
# Expressions and conditions that an older torch does not have.
_CANONICAL_DIMS = getattr(stock, "CanonicalDims", None)
_GET_ATTR = getattr(stock, "GetAttr", None)
_equal: Any = getattr(stock, "_constant_values_equal", None)
_get_attr: Any = getattr(stock, "_get_attr", None)
_HAS_UNDECLARED = getattr(stock, "_has_undeclared_non_default_kwarg", None)
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
# Torch matches by recursion and uses three frames an expression. A deeper pattern would overflow
# torch's stack.
_MAX_DEPTH = 300


class _NoProgramError(Exception):
    """The message is the reason."""


class Route:
    """How a pattern is matched.

    Attributes:
        pattern: Torch's object.
        program: The native program, or None.
        reason: Why there is none; empty where there is one.
        symbolic: Whether literals of the pattern are, or may be, symbols of one graph.
        unknown: How many candidates the program left to torch's object.
    """

    def __init__(self, pattern: stock.PatternExpr) -> None:
        self.pattern = pattern
        self.program: ExprProgram | None = None
        self.reason = ""
        self.symbolic = True
        self.unknown = 0
        lowering = _Lowering()
        try:
            root = lowering.lower(pattern, 0)
        except _NoProgramError as reason:
            self.reason = str(reason)
        else:
            self.program = ExprProgram(lowering.steps, root)
            self.symbolic = lowering.symbolic
        self._expressions: list[Any] = list(lowering.index)
        several = isinstance(pattern, stock.MultiOutputPattern)
        self._outputs: list[Any] = pattern.outputs if several else [pattern]  # type: ignore[attr-defined]

    def accepts(self, node: torch.fx.Node) -> bool:
        """Whether the pattern matches at a node."""
        found = None if self.program is None else self.program.accepts(node)
        return bool(self.pattern.match(node)) if found is None else found

    def match(self, node: torch.fx.Node) -> stock.Match | None:
        """Torch's Match at a node."""
        found = None if self.program is None else self.program.match(node)
        if found is None:
            exact = self.pattern.match(node)
            return exact if stock.is_match(exact) else None
        return self.to_match(found, node.graph) if found else None

    def to_match(self, found: ExprMatch, graph: torch.fx.Graph) -> stock.Match:
        """What the program found as torch's Match."""
        expressions = self._expressions
        context = stock.MatchContext(self._outputs, graph=graph)
        context.pattern_to_node = {expressions[i]: value for i, value in found.bindings}
        match = stock.Match(context, self.pattern)
        match.args = found.args
        match.kwargs = found.kwargs
        match.nodes = found.nodes
        match.targets = {expressions[i]: target for i, target in found.targets}
        return match


def route_of(pattern: stock.PatternExpr) -> Route:
    """The route of a pattern, lowered the first time that it is asked for."""
    shelf = shelf_of(pattern)
    if shelf.route is None:
        shelf.route = Route(pattern)
    found: Route = shelf.route
    return found


def _holds(value: Any, node: torch.fx.Node) -> bool:
    """Whether a get_attr node's attribute is the value that a pattern wants."""
    module = node.graph.owning_module
    if module is None or not isinstance(node.target, str):
        return False
    return bool(_equal(value, _get_attr(module, node.target)))


class _Lowering:
    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.index: dict[stock.PatternExpr, int] = {}
        self.symbolic = False
        self._anchored = False  # inside an expression that looks for candidates from inputs

    def lower(self, expr: stock.PatternExpr, depth: int) -> int:
        """The index of an expression's step; inputs come before what uses them."""
        known = self.index.get(expr)
        if known is not None:
            return known
        if depth > _MAX_DEPTH:
            raise _NoProgramError(f"it is deeper than {_MAX_DEPTH} expressions")
        step = self._step(expr, depth + 1)
        self.steps.append(step)
        self.index[expr] = len(self.steps) - 1
        return self.index[expr]

    def _step(self, expr: Any, depth: int) -> dict[str, Any]:
        kind = type(expr)
        if kind is stock.Arg:
            return {"kind": "arg"}
        if kind is stock.Ignored:
            return {"kind": "ignored"}
        if kind is stock.KeywordArg:
            return {"kind": "keyword", "name": expr.name}
        if kind is stock.ExclusiveKeywordArg:
            return {"kind": "exclusive", "name": expr.name}
        if kind in _CALLS:
            call = {"kind": "call", **self._target(expr), **self._arguments(expr, depth)}
            return {**call, **self._conditions(expr)}
        if kind in _VARARGS:
            if self._anchored:
                raise _NoProgramError(f"{kind.__name__} among several outputs")
            return {"kind": "varargs", **self._target(expr)}
        if kind is stock.ListOf:
            inner = self.lower(expr.pattern, depth)
            return {"kind": "list", "inner": inner, "partial": bool(expr.partial)}
        if kind is stock.MultiOutputPattern:
            self._anchored = True
            outputs = [-1 if out is None else self.lower(out, depth) for out in expr.outputs]
            return {"kind": "outputs", "outputs": outputs}
        if kind is stock.RepeatedExpr:
            if not _REPEATS_AS_KNOWN:
                raise _NoProgramError("RepeatedExpr visits other nodes in this torch")
            self._anchored = True
            return {"kind": "repeated", "inner": self.lower(expr.inner_pattern, depth)}
        if kind is _CANONICAL_DIMS:
            return {"kind": "dims", "dims": list(expr.dims), "rank": expr.rank}
        if kind is _GET_ATTR:
            holds = functools.partial(_holds, expr.value)
            return {"kind": "get_attr", "users": self._users(expr), "holds": holds}
        raise _NoProgramError(f"{kind.__name__} is not one of torch's own expressions")

    def _target(self, expr: Any) -> dict[str, Any]:
        return {"op": expr.op, "targets": list(expr.fns_set), "users": self._users(expr)}

    def _users(self, expr: Any) -> int:
        users = expr.users
        if users is stock.MULTIPLE:
            return -1
        if type(users) is not int or users < 0:
            raise _NoProgramError(f"_users={users!r} is not a number")
        return users

    def _conditions(self, expr: Any) -> dict[str, Any]:
        """What newer torches ask of a node besides its arguments."""
        found: dict[str, Any] = {}
        if _HAS_UNDECLARED is not None:
            # The program is given the names alone. The pattern itself would make a reference cycle,
            # for the pattern holds the program.
            declared = dict.fromkeys(expr.kwargs)
            found["undeclared"] = functools.partial(_HAS_UNDECLARED, declared=declared)
        meta = getattr(expr, "expected_meta", None)
        if meta is not None:
            found["meta"] = (tuple(meta[0]), meta[1], meta[2])
            self.symbolic |= any(isinstance(size, _SYMBOLIC) for size in meta[0])
        return found

    def _arguments(self, expr: Any, depth: int) -> dict[str, Any]:
        values = [*expr.args, *expr.kwargs.values()]
        nests: list[Any] = []
        leaves: list[Any] = values
        if any(isinstance(value, (dict, list, tuple)) for value in values):
            leaves = []
            for value in values:
                self._flatten(value, nests, leaves)
        if any(isinstance(leaf, _SYMBOLIC) for leaf in leaves):
            self.symbolic = True
        items = [
            (self.lower(leaf, depth), None) if isinstance(leaf, stock.PatternExpr) else (-1, leaf)
            for leaf in leaves
        ]
        return {
            "positional": len(expr.args),
            "keys": list(expr.kwargs),
            "nests": nests,
            "items": items,
        }

    def _flatten(self, value: Any, nests: list[Any], leaves: list[Any]) -> None:
        if type(value) in _SEQUENCES:
            nests.append(len(value))
            for item in value:
                self._flatten(item, nests, leaves)
        elif type(value) in _MAPPINGS:
            nests.append(tuple(value))
            for item in value.values():
                self._flatten(item, nests, leaves)
        elif tree_is_leaf(value):
            nests.append(None)
            leaves.append(value)
        else:
            raise _NoProgramError(f"an argument of type {type(value).__name__}")
