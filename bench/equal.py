"""Whether two rewritten graphs are the same up to names: same live nodes, same wiring, same
metadata.

Peers do not count as doing the same work because they say so. Every node gets a signature made of
its operator, its literals, its metadata and the signatures of its inputs; two graphs are equal when
the multisets of the signatures of their live nodes are. Node names, the order of independent nodes,
and dead nodes play no part.

Symbolic sizes are compared by value, not by how they are computed: a size taken from an input and
the same size taken from a tensor (aten.sym_size) are one thing, and a reshape is known by the shape
of its result.

A symbolic size ``s`` that is sharded is known to be divisible, yet one side may write a gathered
size as ``s`` and the other as ``8*(s//8)``: expressions are compared with ``s = tp_size * k``.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import sympy
import torch
import torch.fx as fx

_RESHAPES = (torch.ops.aten.reshape.default, torch.ops.aten.view.default)


class Different(AssertionError):
    """Two graphs that should be the same are not; the message shows the first nodes that differ."""


def assert_same(left: fx.Graph, right: fx.Graph, tp_size: int, names: tuple[str, str]) -> None:
    """Raises unless both graphs are the same up to names.

    Args:
        left: one rewritten graph.
        right: the other.
        tp_size: by what the symbolic token counts are divisible.
        names: what to call the two in the message.

    Raises:
        Different: naming the first node on each side that the other side lacks.
    """
    ours, theirs = signatures(left, tp_size), signatures(right, tp_size)
    a, b = Counter(ours.values()), Counter(theirs.values())
    if a == b:
        return
    lines = [f"{names[0]} and {names[1]} made different graphs"]
    for name, own, other in ((names[0], ours, b), (names[1], theirs, a)):
        extra = [node for node, sig in own.items() if sig not in other]
        counts = Counter(own.values())
        repeated = [n for n, sig in own.items() if sig in other and counts[sig] > other[sig]]
        lines.append(f"  only in {name}: {len(extra)} (repeated more often: {len(repeated)})")
        lines += [f"    {_show(node)}" for node in (extra + repeated)[:4]]
    raise Different("\n".join(lines))


def signatures(graph: fx.Graph, tp_size: int) -> dict[fx.Node, bytes]:
    """The signature of each live node, in graph order."""
    live = _live(graph)
    found: dict[fx.Node, bytes] = {}
    inputs = 0
    for node in graph.nodes:
        if node.op == "placeholder":
            key: Any = ("input", inputs)
            inputs += 1
        else:
            key = _call_key(node, found, tp_size)
        text = repr((node.op, key, describe(node.meta.get("val"), tp_size)))
        if node in live and (node.op == "placeholder" or not _is_size(node)):
            found[node] = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return found


def describe(value: Any, tp_size: int) -> Any:
    """Plain data that says what a meta["val"] is: shapes, strides, dtypes, devices."""
    if isinstance(value, torch.Tensor):
        shape = tuple(_size(d, tp_size) for d in value.shape)
        stride = tuple(_size(d, tp_size) for d in value.stride())
        return (shape, stride, str(value.dtype), str(value.device))
    if isinstance(value, (tuple, list)):
        return tuple(describe(v, tp_size) for v in value)
    if isinstance(value, torch.SymInt):
        return ("sym", _size(value, tp_size))
    return None if value is None else type(value).__name__


def _live(graph: fx.Graph) -> set[fx.Node]:
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        impure = node.op in ("placeholder", "output") or _mutates(node)
        if impure or any(user in live for user in node.users):
            live.add(node)
    return live


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.SymInt, int))


def _call_key(node: fx.Node, found: Mapping[fx.Node, bytes], tp_size: int) -> Any:
    args, kwargs = tuple(node.args), dict(node.kwargs)
    if node.target in _RESHAPES:
        args = args[:1]
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        for argument, value in zip(schema.arguments, args, strict=False):
            kwargs[argument.name] = value
        args = ()
        for argument in schema.arguments:
            if argument.has_default_value() and argument.name in kwargs:
                if _plain(kwargs[argument.name], found, tp_size) == argument.default_value:
                    del kwargs[argument.name]
    named = tuple((k, _plain(kwargs[k], found, tp_size)) for k in sorted(kwargs))
    return (_target(node.target), _plain(args, found, tp_size), named)


def _target(target: Any) -> str:
    return str(target) if isinstance(target, (str, torch._ops.OpOverload)) else target.__name__


def _plain(value: Any, found: Mapping[fx.Node, bytes], tp_size: int) -> Any:
    if isinstance(value, fx.Node):
        if _is_size(value):
            return _plain(value.meta["val"], found, tp_size)
        return ("node", found.get(value, b"dead").hex())
    if isinstance(value, (tuple, list)):
        return tuple(_plain(v, found, tp_size) for v in value)
    if isinstance(value, torch.SymInt):
        return _size(value, tp_size)
    if value is None or isinstance(value, (int, float, str)):
        return value
    return str(value)


def _size(value: int | torch.SymInt, tp_size: int) -> int | str:
    return value if isinstance(value, int) else _normal(value.node.expr, tp_size)


@functools.cache
def _normal(expr: sympy.Expr, tp_size: int) -> int | str:
    # One name for every symbol that is alone in its expression, so that two builds of a graph
    # agree.
    symbols = sorted(expr.free_symbols, key=str)
    blocks = {
        s: tp_size * sympy.Symbol(f"k{i}", integer=True, positive=True)
        for i, s in enumerate(symbols)
    }
    simple = sympy.expand(sympy.sympify(expr).xreplace(blocks))
    return int(simple) if simple.is_Integer else str(simple)


def _show(node: fx.Node) -> str:
    return f"{node.format_node()} -> {node.meta.get('val')}"[:300]
