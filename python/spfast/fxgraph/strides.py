"""Values of a rewritten graph where strides are not the usual ones.

Where a value lies in memory as a fresh tensor does, its shard is known from the value alone. For
any other value FakeTensorMode is asked, for an operator's layout depends on all its operands.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from spfast.fxgraph.journal import Journal
from spfast.fxgraph.tensor_meta import tensor_metas

__all__ = ["has_usual_strides", "is_vaguer", "quiet_mode", "settle"]

logger = logging.getLogger("spfast")


def has_usual_strides(value: torch.Tensor) -> bool:
    """Whether a tensor has the strides of a fresh one; those of dims of size 1 do not count.

    Example:
        >>> has_usual_strides(torch.empty(2, 3)), has_usual_strides(torch.empty(2, 3).t())
        (True, False)
    """
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        # Sizes are compared as text, for a comparison of symbolic sizes would add a guard.
        if str(size) == "1":
            continue
        if str(stride) != str(expected):
            return False
        expected = expected * size
    return True


@contextlib.contextmanager
def quiet_mode(graph: fx.Graph) -> Iterator[None]:
    """The fake mode of a graph's values; what is computed in it leaves no guard.

    A symbolic size whose example is 1 must stay symbolic, and not broadcast. Some operators take
    symbolic numbers in their Python form alone.
    """
    mode = detect_fake_mode([node.meta.get("val") for node in graph.nodes])
    mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
    with mode, enable_python_dispatcher(), contextlib.ExitStack() as stack:
        if hasattr(symbolic_config, "backed_size_oblivious"):
            patch: Any = getattr(symbolic_config, "patch")  # noqa: B009 (untyped)
            stack.enter_context(patch(backed_size_oblivious=True))
        if mode.shape_env is not None:
            stack.enter_context(mode.shape_env.suppress_guards())
        yield


def settle(
    graph: fx.Graph, journal: Journal, touched: Sequence[fx.Node], strided: Sequence[fx.Node]
) -> None:
    """Gives nodes whose strides are only guessed the values that FakeTensorMode computes.

    Args:
        graph: The rewritten graph.
        journal: What takes the rewrite back; it has noted the ``meta`` of every touched node.
        touched: Every node that the rewrite created or resized.
        strided: The touched nodes where strides other than the usual ones are involved. Touched
            nodes that read these follow where they are affected.
    """
    erased = {entry[1] for entry in journal.entries if entry[0] == "erase"}
    mine = {node for node in touched if node not in erased}
    queue = [_Place(node) for node in strided if node in mine]
    heapq.heapify(queue)
    seen = {place.node for place in queue}
    with quiet_mode(graph):
        while queue:
            node = heapq.heappop(queue).node
            value = _run(node)
            if value is None or is_vaguer(value, node.meta["val"]):
                continue
            node.meta["val"] = value
            (described,) = tensor_metas([node], [value])
            if described is not None:
                node.meta["tensor_meta"] = described
            if not _lies_otherwise(value):
                continue
            for user in node.users:
                if user in mine and user not in seen:
                    seen.add(user)
                    heapq.heappush(queue, _Place(user))


def is_vaguer(value: Any, known: Any) -> bool:
    """Whether a value has sizes that nobody knows, where another of the same node has none.

    Before torch 2.13 a cut has such a size where only the example tells where it ends.
    """
    return bool(free_unbacked_symbols(value) - free_unbacked_symbols(known))


class _Place:
    """A node, in the order of its graph."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node

    def __lt__(self, other: _Place) -> bool:
        return self.node < other.node


def _run(node: fx.Node) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda read: read.meta["val"])
    try:
        value = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:
        logger.debug("%s does not run on fake values", node.name, exc_info=True)
        return None
    return value


def _lies_otherwise(value: Any) -> bool:
    """Whether some tensor has strides of its own, or begins within its storage."""
    if isinstance(value, (tuple, list)):
        return any(map(_lies_otherwise, value))
    if not isinstance(value, torch.Tensor):
        return False
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if str(stride) != str(expected):
            return True
        expected = expected * size
    return str(value.storage_offset()) != "0"
