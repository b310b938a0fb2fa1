"""Fake values brought up to date after passes: torch is given only the nodes that may need it.

Torch runs every node that changed and, where a value was replaced, all nodes that read it. Since
2.13 it replaces every value that it computes. So one new node at the head of a backward graph has
every later operator run again, for values that differ only in the identity of their storage. Here
these values stay. The kind of an operator's arguments tells its result; where the node has this
result already, torch would only rename a storage.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch._inductor.fx_utils as fx_utils
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from spfast.integrations.foresight import Foresight, Unforeseen

__all__ = ["incremental_update"]

# Torch's own function is kept at import, for `quick.install` puts another one in its place.
_torch_update: Callable[..., Any] = fx_utils.FakeTensorUpdater.incremental_update

_MISSING = object()
_LOWERED = "_inductor_lowering_function"


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


# Torch goes over the graph's nodes for their storages, then for the update, and since 2.14 once
# more for their ids. A torch that does otherwise updates in its own way.
_UPDATES_BY_MODULE = _source(_torch_update).count("self.gm.graph.nodes") in (2, 3)


@functools.cache
def _always_replaces() -> bool:
    """Whether torch replaces the value of each node that it runs, even by one that is equal.

    Torch has since 2.13. Before, a value whose storage nobody else reads stays.
    """
    with FakeTensorMode():
        old, new = torch.empty(1), torch.empty(1)
    try:
        same: Callable[..., Any] = fx_utils._is_fake_tensor_same
        return not any(same(one, old, {_storages(old)[0]: 1}, node=None) for one in (old, new))
    except (AttributeError, TypeError):
        return False


class _Cascade:
    """Which nodes of a graph torch has to update, and which values it would only rename.

    Args:
        graph: The graph.
        changed: Its nodes that are not as they were at the last update.

    Attributes:
        due: All nodes that torch alone would have run.
        renamed: How many values stay that torch would have replaced.
        foresees: Whether values may stay at all.
    """

    def __init__(self, graph: torch.fx.Graph, changed: set[torch.fx.Node]) -> None:
        self.due: set[torch.fx.Node] = set()
        self.renamed = 0
        self._graph = graph
        self._changed = changed
        self._replaced: set[torch.fx.Node] = set()  # nodes whose values torch would have replaced
        self._moved: set[int] = set()  # storages that torch would have replaced
        # Nothing updates the values of the output node. So the storages that they share have to
        # stay.
        ends = graph.find_nodes(op="output")
        self._pinned = {storage for end in ends for storage in _storages(end.meta.get("val"))}
        mode = V.fake_mode
        # Newer torches have rules of their own for nodes that hold lowered code.
        foresees = (
            isinstance(mode, FakeTensorMode)
            and _always_replaces()
            and not any(hasattr(node.target, _LOWERED) for node in graph.nodes)
        )
        self._foresight = Foresight(mode) if foresees else None
        self.foresees = foresees

    def nodes(self) -> Iterator[torch.fx.Node]:
        """The nodes that torch has to update, in order; each is looked at after its update."""
        if not self._changed:
            return
        for node in self._graph.nodes:
            if node in self._changed or not self._replaced.isdisjoint(node._input_nodes):
                self.due.add(node)
                if self._stays(node):
                    self.renamed += 1
                    self._replaced.add(node)
                    continue
                before = node.meta.get("val", _MISSING)
                yield node
                if node.meta.get("val", _MISSING) is not before:
                    self._replaced.add(node)

    def is_torn(self) -> bool:
        """Whether a value that torch leaves keeps a storage that was replaced in other values."""
        return bool(self._moved) and any(
            not self._moved.isdisjoint(_storages(node.meta.get("val")))
            for node in self._graph.nodes
            if node not in self._replaced
        )

    def _stays(self, node: torch.fx.Node) -> bool:
        """Whether the value is what torch would give, up to the identity of storages."""
        if self._foresight is None or "unbacked_bindings" in node.meta:
            return False
        try:
            kind, storage = self._foresight.kind(node.meta.get("val"))
            expected, source = self._foresight.outcome(node)
        except Unforeseen:
            return False
        if kind != expected or source not in (None, storage):
            return False
        if source is None:
            if storage in self._moved or storage in self._pinned:
                return False
            self._moved.add(storage)
        return True


def _storages(value: Any) -> list[int]:
    """The storages of a value: a tensor, or several."""
    if type(value) is FakeTensor:
        return [value.untyped_storage()._cdata]
    if isinstance(value, (list, tuple)):
        return [storage for one in value for storage in _storages(one)]
    if isinstance(value, torch.Tensor) and torch._C._has_storage(value):
        return [value.untyped_storage()._cdata]
    return []


class _DueNodes:
    """A graph as `incremental_update` sees it: only nodes that it has to update.

    Args:
        graph: The graph.
        cascade: Which nodes these are.
        idle: Whether there are none.
    """

    def __init__(self, graph: torch.fx.Graph, cascade: _Cascade, idle: bool) -> None:
        self._graph = graph
        self._cascade = cascade
        self._idle = idle
        self._passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    @property
    def nodes(self) -> Iterable[torch.fx.Node]:
        """All nodes for their storages, those due for the update, and all from then on."""
        self._passes += 1
        if self._passes == 1 and self._idle:
            return ()
        return self._cascade.nodes() if self._passes == 2 else self._graph.nodes


class _Module:
    """A module whose graph is another; every other attribute is the module's."""

    def __init__(self, module: torch.fx.GraphModule, graph: Any) -> None:
        self._module = module
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def incremental_update(self: Any) -> Any:
    """`FakeTensorUpdater.incremental_update`, which looks at the nodes that changed.

    In a graph with subgraphs the result of a call may change although the calling node did not. So
    torch alone updates such graphs.
    """
    if not _UPDATES_BY_MODULE or self.subgraph_updaters:
        return _torch_update(self)
    module = self.gm
    known = self.processed_hashes
    hashes = {node: self.hash_node(node) for node in module.graph.nodes}
    changed = {node for node, found in hashes.items() if found not in known}
    cascade = _Cascade(module.graph, changed)
    self.gm = _Module(module, _DueNodes(module.graph, cascade, not changed))
    if cascade.foresees:
        # Torch runs the nodes that it does not know. It is given only nodes that have to be run.
        self.processed_hashes = type(known)()
    try:
        updated = _torch_update(self) + cascade.renamed
        self.gm = module
        if cascade.is_torn():
            due = {hashes[node] for node in cascade.due}
            self.processed_hashes = type(known)(found for found in known if found not in due)
            updated = _torch_update(self)
    except BaseException:
        self.processed_hashes = known
        raise
    finally:
        self.gm = module
    self.processed_hashes = type(known)(hashes.values())
    return updated
