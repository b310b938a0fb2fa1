"""Whether ``meta["val"]`` of the rewritten graph is what FakeTensorMode computes, unshared.

Only nodes that a rewrite touched, and those that read them, are computed anew; nodes that call the
same operator on operands of the same shapes are computed once.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from spfast.verifier.dims import Dims
from spfast.verifier.effects import shared_operand
from spfast.verifier.fake_runs import FakeRuns
from spfast.verifier.kinds import operator_name, writes_of
from spfast.verifier.numbers import is_read
from spfast.verifier.products import FUSED
from spfast.verifier.snapshot import Entry

__all__ = ["Metadata"]

# An operator that cannot be run on fake tensors says nothing about its metadata.
_UNKNOWABLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)

_RUNS = FakeRuns()


class Metadata:
    """The check of one rewritten graph.

    Symbolic sizes are compared at one sample point (:meth:`Dims.sample`): operators run on plain
    sizes there, so that nothing is guarded, and nothing is taken from the example values.

    Args:
        dims: The sizes of the verification, with what is known of their divisibility.
        before: The original graph.
        after: The rewritten graph.
    """

    def __init__(self, dims: Dims, before: Sequence[Entry], after: Sequence[Entry]) -> None:
        self._sample = dims.sample
        self._before = {entry[0]: entry for entry in before}
        self._by_name = {entry[0].name: entry for entry in before}
        self._after = after
        self._described: dict[int, Hashable] = {}
        self._expected: dict[Hashable, Any] = {}
        self._has_vals = any(val is not None for *_, val in before)

    def problems(self) -> Iterator[tuple[fx.Node, str]]:
        """Yields each node whose value is missing, stale or shares a storage it should not."""
        if not self._has_vals:
            return
        changed: set[fx.Node] = set()
        for entry in self._after:
            node, op, _, args, kwargs, val = entry
            old = self._before.get(node)
            if old is None or old[5] is not val:
                changed.add(node)
            elif old[3] is args and old[4] is kwargs:
                if changed.isdisjoint(node.all_input_nodes):
                    continue
            if op == "call_function":
                problem = self._problem(entry)
                if problem is not None:
                    yield node, problem
        yield from self._shared(changed)

    def _old(self, node: fx.Node) -> Entry | None:
        """What a node was: the node itself, or the one that it is a copy of."""
        return self._before.get(node) or self._by_name.get(node.name)

    # --- what FakeTensorMode computes ---

    def _problem(self, entry: Entry) -> str | None:
        node, op, target, args, kwargs, val = entry
        if val is None:
            old = self._before.get(node)
            is_missing = (old is None or old[5] is not None) and not _returns_nothing(target)
            return "has no meta['val']" if is_missing else None
        if target is operator.getitem:
            return self._item_problem(args, val)
        if writes_of(op, target).ordered or _is_data(val):
            return None
        if operator_name(target) in FUSED:  # asks for a process group; their own rules look at it
            return None
        try:
            key: Hashable = (target, self._key(args), self._key(kwargs))
        except _Unknown:
            return None
        expected = self._expected.get(key, self)
        if expected is self:
            expected = self._expected[key] = self._compute(key, target, args, kwargs)
        if isinstance(expected, _Failure):
            problem: str | None = expected.reason
        else:
            problem = self._difference(val, expected)
        return None if problem is None or self._is_as_before(entry, key) else problem

    def _is_as_before(self, entry: Entry, key: Hashable) -> bool:
        """Whether a node computes the same on the same shapes as in the original graph.

        Its value is then as good as it was. Capture may have taken something of it from the example
        values, such as the number of parts that a symbolic size is split into.
        """
        node, _, target, _, _, val = entry
        old = self._old(node)
        if old is None or old[2] is not target or old[5] is not val:
            return False
        values = {operand: self._before[operand][5] for operand in _operands(old)}
        return (target, self._key(old[3], values), self._key(old[4], values)) == key

    def _item_problem(self, args: tuple[Any, ...], val: Any) -> str | None:
        source = args[0].meta.get("val") if isinstance(args[0], fx.Node) else None
        if not isinstance(source, (tuple, list)) or not isinstance(args[1], int):
            return None
        if not -len(source) <= args[1] < len(source):
            return f"takes item {args[1]} of {len(source)}"
        return self._difference(val, source[args[1]])

    def _compute(
        self, key: Hashable, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        kept = _RUNS.kept(key)
        if kept is not None:
            return kept
        given = fx.node.map_aggregate((args, kwargs), self._stand_in)
        assert isinstance(given, tuple)
        try:
            return _RUNS.run(key, target, given[0], given[1])
        except _UNKNOWABLE:
            return None
        except Exception as error:  # whatever the operator's shape rule raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return _Failure(f"cannot be computed on the shapes of its operands: {lines[0]}")

    def _stand_in(self, argument: Any) -> Any:
        """A tensor of sample sizes for a node's value."""
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        if isinstance(value, torch.Tensor):
            return _RUNS.tensor(self._describe(value))
        if isinstance(value, (tuple, list)):
            return type(value)([self._stand_in(item) for item in value])
        if isinstance(value, torch.SymFloat):
            return 0.5  # no shape depends on it
        return self._sample(value) if isinstance(value, torch.SymInt) else value

    def _key(self, argument: Any, values: Mapping[fx.Node, Any] | None = None) -> Hashable:
        if isinstance(argument, fx.Node):
            val = argument.meta.get("val") if values is None else values[argument]
            if val is None:
                raise _Unknown
            described: Hashable = self._describe(val)
            return described
        if isinstance(argument, (list, tuple)):
            return tuple([self._key(item, values) for item in argument])
        if isinstance(argument, dict):
            return tuple([(name, self._key(argument[name], values)) for name in argument])
        if isinstance(argument, (int, float)):
            return (type(argument), argument)
        if isinstance(argument, torch.SymInt):
            return (int, self._sample(argument))
        if isinstance(argument, (torch.SymFloat, torch.SymBool)):
            # The key has the expression as text. To hash the number would add a guard on its value.
            return (type(argument), str(argument.node.expr))
        try:
            hash(argument)
        except TypeError:
            raise _Unknown from None
        return argument  # type: ignore[no-any-return]

    def _describe(self, val: Any) -> Any:
        if not isinstance(val, torch.Tensor):
            return self._key(val)
        found = self._described.get(id(val))
        if found is None:
            shape = tuple(map(self._sample, val.shape))
            stride = tuple(map(self._sample, val.stride()))
            found = self._described[id(val)] = (shape, stride, val.dtype, val.device)
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
            if self._describe(val) == self._describe(expected):
                return None
            if _show(val) == _show(expected):
                if self._lie_alike(val, expected):
                    return None
                return f"carries strides {list(val.stride())}, but has {list(expected.stride())}"
            at_sample = "" if isinstance(val.numel(), int) else f" at {self._shape(val)}"
            return f"carries {_show(val)}{at_sample}, but is {_show(expected)}"
        if isinstance(expected, (int, torch.SymInt)) and isinstance(val, (int, torch.SymInt)):
            if self._sample(val) != self._sample(expected):
                return f"carries {val}, which is {self._sample(val)} where {expected} is right"
        return None

    def _lie_alike(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether strides differ in dims of size 1 alone, as they may between two ways of torch."""
        if self._shape(one) != self._shape(other) or one.device != other.device:
            return False
        strides = zip(self._shape(one), one.stride(), other.stride(), strict=True)
        return all(size == 1 or self._sample(a) == self._sample(b) for size, a, b in strides)

    def _shape(self, val: torch.Tensor) -> list[int]:
        return [self._sample(size) for size in val.shape]

    # --- storages ---

    def _shared(self, changed: set[fx.Node]) -> Iterator[tuple[fx.Node, str]]:
        if not changed:
            return
        owners: dict[int, fx.Node] = {}
        roots: dict[fx.Node, fx.Node] = {}
        for node, op, target, args, kwargs, val in self._after:
            if op == "call_function":
                source = shared_operand(target, args, kwargs)
                if source is not None:
                    roots[node] = roots.get(source, source)
            if not isinstance(val, torch.Tensor):
                continue
            storage = val.untyped_storage()._cdata
            owner = owners.setdefault(storage, node)
            if owner is node or (node not in changed and owner not in changed):
                continue
            if roots.get(owner, owner) is not roots.get(node, node):
                yield node, f"shares the storage of its meta['val'] with {owner.name!r}"


def _is_data(val: Any) -> bool:
    """Whether a value was read out of a tensor, so that no shape rule tells it."""
    return isinstance(val, torch.SymInt) and is_read(val.node.expr)


def _operands(entry: Entry) -> list[fx.Node]:
    """The operands of a node in the snapshot; by now the node may read others."""
    found: list[fx.Node] = []
    fx.node.map_arg((entry[3], entry[4]), found.append)
    return found


class _Unknown(Exception):
    """An operand has no value to compute with."""


class _Failure:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _show(val: Any) -> str:
    if not isinstance(val, torch.Tensor):
        return type(val).__name__
    dtype = str(val.dtype).removeprefix("torch.")
    return f"{dtype}[{', '.join(map(str, val.shape))}] on {val.device}"


def _returns_nothing(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and not target._schema.returns
