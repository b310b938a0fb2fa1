"""Whether ``meta["val"]`` of the rewritten graph is what FakeTensorMode computes, unshared.

Only nodes that a rewrite touched, and those that read them, are computed anew; nodes that call the
same operator on operands of the same shapes are computed once.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from spfast.verifier.dims import Dims
from spfast.verifier.effects import is_view, returns_operand
from spfast.verifier.kinds import writes_of
from spfast.verifier.snapshot import Entry

__all__ = ["Metadata"]

# An operator that cannot be run on fake tensors says nothing about its metadata.
_UNKNOWABLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)


class Metadata:
    """The check of one rewritten graph.

    Args:
        dims: The sizes of the verification, with what is known of their divisibility.
        before: The original graph.
        after: The rewritten graph.
    """

    def __init__(self, dims: Dims, before: Sequence[Entry], after: Sequence[Entry]) -> None:
        self._dims = dims
        self._before = {entry[0]: entry for entry in before}
        self._after = after
        self._described: dict[int, Hashable] = {}
        self._expected: dict[Hashable, Any] = {}
        self._has_vals = any(val is not None for *_, val in before)

    def problems(self) -> Iterator[tuple[fx.Node, str]]:
        """Yields each node whose value is missing, stale or shares a storage it should not."""
        if not self._has_vals:
            return
        changed: set[fx.Node] = set()
        touched: list[Entry] = []
        for entry in self._after:
            node, op, _, args, kwargs, val = entry
            old = self._before.get(node)
            if old is None or old[5] is not val:
                changed.add(node)
            elif old[3] is args and old[4] is kwargs:
                if changed.isdisjoint(node.all_input_nodes):
                    continue
            if op == "call_function":
                touched.append(entry)
        with _computing(touched) as mode:
            for entry in touched:
                problem = self._problem(entry, mode)
                if problem is not None:
                    yield entry[0], problem
        yield from self._shared(changed)

    # --- what FakeTensorMode computes ---

    def _problem(self, entry: Entry, mode: FakeTensorMode | None) -> str | None:
        node, op, target, args, kwargs, val = entry
        if val is None:
            old = self._before.get(node)
            if mode is None or (old is not None and old[5] is None):
                return None
            return "has no meta['val']"
        if target is operator.getitem:
            return self._item_problem(args, val)
        if mode is None or writes_of(op, target).ordered:
            return None
        try:
            key: Hashable = (target, self._key(args), self._key(kwargs))
        except _Unknown:
            return None
        expected = self._expected.get(key, self)
        if expected is self:
            expected = self._expected[key] = self._compute(mode, target, args, kwargs)
        if isinstance(expected, _Failure):
            return expected.reason
        return self._difference(val, expected)

    def _item_problem(self, args: tuple[Any, ...], val: Any) -> str | None:
        source = args[0].meta.get("val") if isinstance(args[0], fx.Node) else None
        if not isinstance(source, (tuple, list)) or not isinstance(args[1], int):
            return None
        return self._difference(val, source[args[1]])

    def _compute(
        self, mode: FakeTensorMode, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = fx.node.map_arg((args, kwargs), lambda node: node.meta["val"])
        try:
            with mode:
                return target(*given[0], **given[1])
        except _UNKNOWABLE:
            return None
        except Exception as error:  # whatever the operator's shape rule raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return _Failure(f"cannot be computed on the shapes of its operands: {lines[0]}")

    def _key(self, argument: Any) -> Hashable:
        if isinstance(argument, fx.Node):
            if argument.meta.get("val") is None:
                raise _Unknown
            return self._describe(argument.meta["val"])
        if isinstance(argument, (list, tuple)):
            return tuple([self._key(item) for item in argument])
        if isinstance(argument, dict):
            return tuple([(name, self._key(argument[name])) for name in argument])
        if isinstance(argument, (int, float)):
            return (type(argument), argument)
        if isinstance(argument, torch.SymInt):
            return self._dims.of(argument)  # type: ignore[no-any-return]
        try:
            hash(argument)
        except TypeError:
            raise _Unknown from None
        return argument  # type: ignore[no-any-return]

    def _describe(self, val: Any) -> Hashable:
        found = self._described.get(id(val))
        if found is None:
            if isinstance(val, torch.Tensor):
                of = self._dims.of
                shape = tuple([of(size) for size in val.shape])
                stride = tuple([of(size) for size in val.stride()])
                found = (shape, stride, val.dtype, val.device)
            else:
                return self._key(val)
            self._described[id(val)] = found
        return found

    def _difference(self, val: Any, expected: Any) -> str | None:
        if expected is None or val is expected:
            return None
        if isinstance(expected, (tuple, list)):
            if not isinstance(val, (tuple, list)) or len(val) != len(expected):
                return f"carries {_show(val)} as its value instead of {len(expected)} values"
            for mine, theirs in zip(val, expected, strict=True):
                problem = self._difference(mine, theirs)
                if problem is not None:
                    return problem
            return None
        if isinstance(expected, torch.Tensor):
            if not isinstance(val, torch.Tensor):
                return f"carries {_show(val)} as its value instead of {_show(expected)}"
            same, of = self._dims.same_shape, self._dims.of
            if (
                val.dtype != expected.dtype
                or val.device != expected.device
                or not same(tuple(map(of, val.shape)), tuple(map(of, expected.shape)))
            ):
                return f"carries {_show(val)}, but is {_show(expected)}"
            if not same(tuple(map(of, val.stride())), tuple(map(of, expected.stride()))):
                return f"carries strides {list(val.stride())}, but has {list(expected.stride())}"
            return None
        if isinstance(expected, (int, torch.SymInt)) and isinstance(val, (int, torch.SymInt)):
            if not self._dims.equal(self._dims.of(val), self._dims.of(expected)):
                return f"carries {val}, but is {expected}"
        return None

    # --- storages ---

    def _shared(self, changed: set[fx.Node]) -> Iterator[tuple[fx.Node, str]]:
        if not changed:
            return
        owners: dict[int, fx.Node] = {}
        roots: dict[fx.Node, fx.Node] = {}
        for node, op, target, args, _, val in self._after:
            if not isinstance(val, torch.Tensor):
                continue
            if op == "call_function" and args and isinstance(args[0], fx.Node):
                if target is operator.getitem or is_view(target) or returns_operand(target):
                    roots[node] = roots.get(args[0], args[0])
            storage = val.untyped_storage()._cdata
            owner = owners.setdefault(storage, node)
            if owner is node or (node not in changed and owner not in changed):
                continue
            if roots.get(owner, owner) is not roots.get(node, node):
                yield node, f"shares the storage of its meta['val'] with {owner.name!r}"


class _Unknown(Exception):
    """An operand has no value to compute with."""


class _Failure:
    def __init__(self, reason: str) -> None:
        self.reason = reason


@contextlib.contextmanager
def _computing(entries: Sequence[Entry]) -> Iterator[FakeTensorMode | None]:
    """The fake mode of the graph's values, adding no guard; None when they have none."""
    found = (val for *_, val in entries for val in (val if isinstance(val, tuple) else (val,)))
    mode = next((val.fake_mode for val in found if isinstance(val, FakeTensor)), None)
    with contextlib.ExitStack() as stack:
        if mode is not None and mode.shape_env is not None:
            stack.enter_context(mode.shape_env.suppress_guards())
            stack.enter_context(enable_python_dispatcher())
        yield mode


def _show(val: Any) -> str:
    if not isinstance(val, torch.Tensor):
        return type(val).__name__
    dtype = str(val.dtype).removeprefix("torch.")
    return f"{dtype}[{', '.join(map(str, val.shape))}] on {val.device}"
