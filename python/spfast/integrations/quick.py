"""Short ways to what Inductor's FX passes do besides matching.

Each function takes the place of one of torch's. It calls torch's wherever the short way does not
show what torch would do:

- fake tensors are updated only where the new value is not the old one (`updates`);
- a node's arguments as fake values are collected without `pytree`;
- a graph that is in order already is not sorted;
- the operands that each node keeps tell where a constant folder may forget a value.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch._inductor.fx_utils as fx_utils
import torch._inductor.pattern_matcher as stock
from torch._inductor.constant_folding import ConstantFolder
from torch.fx.immutable_collections import immutable_dict, immutable_list

from spfast.integrations.updates import incremental_update

__all__ = ["install", "put_back"]

_Function = Callable[..., Any]

# Torch's functions are kept at import, for `install` puts others in their place.
_torch_fake_args: _Function = fx_utils.get_fake_args_kwargs
_torch_last_uses: _Function = ConstantFolder.node_to_last_non_output_use
_torch_sort: _Function = stock.stable_topological_sort


class _Unusual(Exception):  # noqa: N818 - no error: torch's own way is taken
    """An argument of a kind that `pytree` may know more of."""


_PLAIN = frozenset(
    (
        *(bool, int, float, complex, str, type(None), type(...)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
        *(torch.SymInt, torch.SymFloat, torch.SymBool),
    )
)


_HOLDERS = (torch.fx.Node, list, tuple, dict)


def _faked(argument: Any, fake: _Function) -> Any:
    kind = type(argument)
    if kind is torch.fx.Node:
        found = fake(argument)
        several = found if isinstance(found, (list, tuple)) else (found,)
        if any(isinstance(one, _HOLDERS) for one in several):
            raise _Unusual
        return found
    if kind in _PLAIN:
        return argument
    if kind is tuple:
        return tuple([_faked(one, fake) for one in argument])
    if kind is immutable_list:
        return immutable_list([_faked(one, fake) for one in argument])
    if kind is immutable_dict:
        return immutable_dict({name: _faked(one, fake) for name, one in argument.items()})
    raise _Unusual


_FAKE_KNOWS_MODULE = "gm" in inspect.signature(_torch_fake_args).parameters


def get_fake_args_kwargs(x: torch.fx.Node, gm: Any = None) -> tuple[bool, Any, Any]:
    """`get_fake_args_kwargs` of torch: whether all are known, and a node's arguments as values."""
    fake: _Function = fx_utils.get_fake
    if _FAKE_KNOWS_MODULE:
        fake = partial(fake, gm=gm)
    try:
        return True, _faked(x.args, fake), _faked(x.kwargs, fake)
    except _Unusual:
        return _torch_fake_args(x, gm) if _FAKE_KNOWS_MODULE else _torch_fake_args(x)  # type: ignore[no-any-return]


def stable_topological_sort(graph: torch.fx.Graph) -> None:
    """`stable_topological_sort` of torch, which a graph in order needs not."""
    seen: set[torch.fx.Node] = set()
    for node in graph.nodes:
        if not seen.issuperset(node._input_nodes):
            _torch_sort(graph)
            return
        seen.add(node)


def node_to_last_non_output_use(
    self: Any,
) -> dict[torch.fx.Node, list[torch.fx.Node]]:
    """`ConstantFolder.node_to_last_non_output_use`: after which node a value is not needed."""
    nodes = self.module.graph.nodes
    output = next(iter(reversed(nodes)))
    found: dict[torch.fx.Node, list[torch.fx.Node]] = collections.defaultdict(list)
    seen: set[torch.fx.Node] = set()
    for node in reversed(nodes):
        if node.target == "output":
            continue
        if _has_slice((node.args, node.kwargs)):
            # `pytree` takes a slice for a leaf, and does not see operands in it.
            return _torch_last_uses(self)  # type: ignore[no-any-return]
        for operand in node._input_nodes:
            if operand not in seen:
                seen.add(operand)
                found[node].append(operand)
        if len(node.users) == 1 and output in node.users:
            found[node].append(node)
    return found


def _has_slice(argument: Any) -> bool:
    kind = type(argument)
    if kind is torch.fx.Node or kind in _PLAIN:
        return False
    if isinstance(argument, (tuple, list)):
        return any(_has_slice(one) for one in argument)
    if isinstance(argument, dict):
        return any(_has_slice(one) for one in argument.values())
    return isinstance(argument, slice)


_METHODS: tuple[tuple[type, str, _Function], ...] = (
    (fx_utils.FakeTensorUpdater, "incremental_update", incremental_update),
    (ConstantFolder, "node_to_last_non_output_use", node_to_last_non_output_use),
)
_FUNCTIONS: tuple[tuple[str, _Function, _Function], ...] = (
    ("get_fake_args_kwargs", _torch_fake_args, get_fake_args_kwargs),
    ("stable_topological_sort", _torch_sort, stable_topological_sort),
)


def install() -> list[tuple[Any, str, Any]]:
    """Puts the functions of this module in the place of torch's.

    Returns:
        What was there before, for `put_back`.
    """
    # This module takes torch's functions by name. It has to do so before ours are there.
    importlib.import_module("torch._inductor.fx_passes.post_grad")

    before: list[tuple[Any, str, Any]] = []
    for owner, name, function in _METHODS:
        before.append((owner, name, vars(owner)[name]))
        setattr(owner, name, function)
    for name, theirs, ours in _FUNCTIONS:
        before += _swap(name, theirs, ours)
    return before


def put_back(before: list[tuple[Any, str, Any]]) -> None:
    """Undoes `install`, also in modules that were imported meanwhile."""
    for owner, name, value in reversed(before):
        setattr(owner, name, value)
    if any(value is theirs for _, _, value in before for _, theirs, _ in _FUNCTIONS):
        for name, theirs, ours in _FUNCTIONS:
            _swap(name, ours, theirs)


def _swap(name: str, old: _Function, new: _Function) -> list[tuple[Any, str, Any]]:
    swapped = []
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("torch._inductor"):
            with contextlib.suppress(AttributeError):
                if vars(module).get(name) is old:
                    setattr(module, name, new)
                    swapped.append((module, name, old))
    return swapped
