"""Whether ``meta["val"]`` of what a rewrite made or changed is what FakeTensorMode computes."""

from __future__ import annotations

from typing import Any

import torch
from sympy import sympify
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.pool.costs import value_of
from tests.pool.program import leaves

# Sizes at which symbolic expressions are compared: multiples of any share, unlike each other.
POINTS = ((16 * 101, 16 * 211, 16 * 307), (16 * 401, 16 * 503, 16 * 601))


def complaints(before: fx.Graph, after: fx.Graph) -> list[str]:
    """What is wrong with the values of new and changed nodes, and of their readers."""
    old = {node.name: node for node in before.nodes}
    mode = _mode(after)
    if mode is None:
        return []
    changed: set[fx.Node] = set()
    found: list[str] = []
    for node in after.nodes:
        if node.op in ("placeholder", "output"):
            continue
        same = node.name in old and _same(old[node.name], node)
        if same and not any(each in changed for each in node.all_input_nodes):
            continue
        if not same:
            changed.add(node)
        found += _complain(node, mode)
    return found


def _same(old: fx.Node, new: fx.Node) -> bool:
    def named(value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: node.name)

    return (
        old.target == new.target
        and str(named(old.args)) == str(named(new.args))
        and str(named(old.kwargs)) == str(named(new.kwargs))
        and described(old.meta["val"]) == described(new.meta.get("val"))
    )


def described(value: Any) -> str:
    """A value's shape, strides, dtype and offset as text."""
    return str(
        [
            (each.shape, each.stride(), each.dtype, each.storage_offset())
            if isinstance(each, torch.Tensor)
            else each
            for each in leaves(value)
        ]
    )


def _mode(graph: fx.Graph) -> FakeTensorMode | None:
    for node in graph.nodes:
        for value in leaves(node.meta.get("val")):
            if isinstance(value, FakeTensor):
                return value.fake_mode
    return None


def _complain(node: fx.Node, mode: FakeTensorMode) -> list[str]:
    if "val" not in node.meta:
        return [f"{node.name} has no value"]
    env = mode.shape_env
    assert env is not None
    try:
        # Without it torch pads by numbers alone.
        with enable_python_dispatcher(), mode, env.suppress_guards():
            computed = node.target(*value_of(node.args), **value_of(node.kwargs))  # type: ignore[operator]
    except Exception as error:
        return [
            f"{node.name} cannot be run on its operands' values: {type(error).__name__}: {error}"
        ]
    said, right = list(leaves(node.meta["val"])), list(leaves(computed))
    if len(said) != len(right):
        return [f"{node.name} has {len(said)} values and yields {len(right)}"]
    found = []
    for a, b in zip(said, right, strict=True):
        text = _unlike(a, b)
        if text:
            found.append(f"{node.name} ({node.target}): {text}")
    return found


def _unlike(said: Any, right: Any) -> str:
    if not isinstance(right, torch.Tensor):
        if isinstance(right, torch.SymInt) and not right.node.has_hint():
            return ""  # each run makes a symbol of its own
        return "" if not isinstance(right, (int, torch.SymInt)) or _equal(said, right) else (
            f"{said} is {right}")  # fmt: skip
    if not isinstance(said, torch.Tensor):
        return f"{said} is a tensor"
    if said.dtype != right.dtype:
        return f"{said.dtype} is {right.dtype}"
    if said.dim() != right.dim() or not all(map(_equal, said.shape, right.shape)):
        return f"shape {tuple(said.shape)} is {tuple(right.shape)}"
    if any(str(size) == "0" for size in right.shape):
        return ""
    for size, a, b in zip(right.shape, said.stride(), right.stride(), strict=True):
        if str(size) != "1" and not _equal(a, b):
            return f"strides {said.stride()} are {right.stride()}"
    return ""


def _equal(a: Any, b: Any) -> bool:
    return all(_at(a, point) == _at(b, point) for point in POINTS)


def _at(value: Any, point: tuple[int, ...]) -> Any:
    if not isinstance(value, torch.SymInt):
        return value
    expr = value.node.expr
    symbols = sorted(expr.free_symbols, key=str)
    # By name: a symbol stands for the same number wherever it is read.
    known = {
        symbol: point[_place(str(symbol), len(point))] + 16 * _number(symbol) for symbol in symbols
    }
    found = sympify(expr.xreplace(known))
    return int(found) if found.is_number else found


def _number(symbol: Any) -> int:
    return int("".join(each for each in str(symbol) if each.isdigit()) or 0)


def _place(name: str, count: int) -> int:
    return _number(name) % count
