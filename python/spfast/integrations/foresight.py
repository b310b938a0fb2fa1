"""The result of an operator for arguments of one kind; the operator is run once for each kind."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._inductor.fx_passes.reinplace import ViewOp, _generalized_scatter
from torch._library.utils import is_builtin
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from spfast.pattern_matcher.keys import env_state

__all__ = ["Foresight", "Unforeseen"]


class Unforeseen(Exception):  # noqa: N818 - an outcome: the operator itself has to be asked
    """The result of a node cannot be told from the kind of its arguments."""


_PLAIN = frozenset(
    (
        *(bool, int, float, str, type(None)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    )
)
_BY_VALUE = frozenset((torch.Tag.data_dependent_output, torch.Tag.inplace_view))
_INDEX = torch.ops.aten.index.Tensor
_MASKS = (torch.bool, torch.uint8, torch.int8)


class Foresight:
    """The fake values that nodes of one graph would get.

    One lasts for one update of a graph, for its answers depend on the settings of the process. The
    answers are dropped when the shape environment learns something.

    Args:
        mode: The fake mode of the graph's values.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._known: dict[Hashable, tuple[Hashable, int] | None] = {}
        self._state: Hashable = None
        self._by_kind: dict[Any, bool] = {}

    def kind(self, value: Any) -> tuple[Hashable, int]:
        """All that an operator sees of a fake tensor, and the identity of its storage.

        The size of the storage is left out, for equal sizes of it are written in different ways.

        Raises:
            Unforeseen: It is no plain fake tensor of this mode.
        """
        if type(value) is not FakeTensor or value.fake_mode is not self._mode:
            raise Unforeseen
        if value.constant is not None or value.layout is not torch.strided:
            raise Unforeseen
        storage = value.untyped_storage()
        dims = (*value.shape, *value.stride(), value.storage_offset())
        keys = torch._C._dispatch_keys(value).raw_repr()
        told = tuple([n if type(n) is int else self._expression(n) for n in dims])
        return (told, value.dtype, value.fake_device, value.requires_grad, keys), storage._cdata

    def outcome(self, node: torch.fx.Node) -> tuple[Hashable, int | None]:
        """What a node's operator gives for the values of the node's operands.

        Returns:
            The kind of the result, and the storage of an operand that it has; None for a new one.

        Raises:
            Unforeseen: Only the operator itself can tell.
            Whatever the operator raises for these operands.
        """
        if not self._is_told_by_kind(node.target):
            raise Unforeseen
        parts: list[Any] = [node.target]
        storages: list[int] = []
        self._describe(node.args, parts, storages)
        self._describe(node.kwargs, parts, storages)
        groups: dict[int, int] = {}
        parts += [groups.setdefault(storage, len(groups)) for storage in storages]
        state = env_state(self._mode.shape_env)
        if state != self._state:
            self._known.clear()
            self._state = state
        key = tuple(parts)
        if key not in self._known:
            self._known[key] = self._ask(node, storages)
        found = self._known[key]
        if found is None:
            raise Unforeseen
        kind, place = found
        return kind, (None if place < 0 else storages[place])

    def _ask(self, node: torch.fx.Node, storages: list[int]) -> tuple[Hashable, int] | None:
        args, kwargs = tree_map_only(torch.fx.Node, _value, (node.args, dict(node.kwargs)))
        env = self._mode.shape_env
        new_symbols: Any = contextlib.nullcontext
        if env is not None:
            new_symbols = env.ignore_fresh_unbacked_symbols
        with self._mode, enable_python_dispatcher(), new_symbols():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        try:
            kind, storage = self.kind(result)
        except Unforeseen:
            return None
        return kind, (storages.index(storage) if storage in storages else -1)

    def _is_told_by_kind(self, target: Any) -> bool:
        known = self._by_kind.get(target)
        if known is None:
            known = self._by_kind[target] = target is _generalized_scatter or (
                isinstance(target, torch._ops.OpOverload)
                and is_builtin(target)
                and not target._schema.is_mutable
                and "as_strided" not in target._schema.name  # as the storage's size allows
                and _BY_VALUE.isdisjoint(target.tags)
                and (target is _INDEX or torch.Tag.dynamic_output_shape not in target.tags)
            )
        return known

    def _expression(self, size: Any) -> Hashable:
        node = size.node
        if getattr(node, "shape_env", None) is not self._mode.shape_env:
            raise Unforeseen
        expression: Hashable = node._expr
        return expression

    def _describe(self, argument: Any, parts: list[Any], storages: list[int]) -> None:
        kind = type(argument)
        if kind is torch.fx.Node:
            argument = argument.meta.get("val", argument)
            kind = type(argument)
            if kind is FakeTensor:
                described, storage = self.kind(argument)
                if parts[0] is _INDEX and argument.dtype in _MASKS:
                    raise Unforeseen  # as many rows as the mask says
                parts.append(described)
                storages.append(storage)
                return
        if kind in _PLAIN:
            parts += (kind, argument)
        elif kind is torch.SymInt:
            parts += (kind, self._expression(argument))
        elif kind is ViewOp:
            parts += (kind, argument.target)
            self._describe((argument.args, argument.kwargs), parts, storages)
        elif isinstance(argument, (list, tuple)):
            parts += (list, len(argument))
            for one in argument:
                self._describe(one, parts, storages)
        elif isinstance(argument, dict):
            parts += (dict, *argument)
            for one in argument.values():
                self._describe(one, parts, storages)
        else:
            raise Unforeseen


def _value(node: torch.fx.Node) -> Any:
    return node.meta["val"]
