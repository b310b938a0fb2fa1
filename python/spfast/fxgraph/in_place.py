"""What sees the memory that a collective writes to, besides the readers of its result."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.targets import may_return_operand

__all__ = ["Sharing"]

_OUTSIDE = {
    "placeholder": "which is an input of the graph",
    "get_attr": "which the graph's module holds",
}


class Sharing:
    """Which values of a graph share their memory, by the operators' schemas.

    A write that nothing else sees does not matter: the graph computes the same if the operator
    returns its result in memory of its own.

    One rank may have an elementwise operator that others lack, such as a bias that it adds to its
    partial sum. On the other ranks the collective writes to that operator's operand. All ranks have
    to come to the same answer, so the operator's result counts as seen where its operands are.

    Args:
        graph: The graph; it is not changed.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._position: dict[fx.Node, int] = {}
        # Values whose memory others are known to see: how they see it, and the position before
        # which a write is seen.
        self._seen: dict[fx.Node, tuple[_Sight, float]] = {}
        # Values whose memory a call wrote to, unseen by others. A later write can only be seen by
        # readers of the call's result, for nothing else reads these values after the call.
        self._unseen: dict[fx.Node, fx.Node] = {}

    def who_sees(self, call: fx.Node, written: Sequence[fx.Node]) -> str:
        """Why a call's writes are seen; "" where only the readers of its result see them.

        Args:
            call: A node that writes to its operands and returns them.
            written: These operands.
        """
        if not self._position:
            self._position = {node: place for place, node in enumerate(self._graph.nodes)}
        # The number of the memory that a value lies in. 0 is the one that is written to; others are
        # results of operators on it.
        memories = dict.fromkeys(written, 0)
        behind: list[tuple[int, fx.Node]] = [(0, call)]
        pending = list(memories)
        while pending:
            name = pending.pop()
            found = self._known_sight(call, name) or self._sight(call, name)
            if found is not None:
                return self._remember(memories, behind, memories[name], *found)
            memory = memories[name]
            earlier = self._unseen.get(name)
            if earlier is None or self._position[earlier] > self._position[call]:
                shared, operands = _sharing(name)
            else:
                shared, operands = [earlier], []
            if any(operand not in memories for operand in operands):
                behind.append((memory, name))
            for others, place in ((shared, memory), (operands, len(behind) - 1)):
                for other in others:
                    if other is not call and other not in memories:
                        memories[other] = place
                        pending.append(other)
        self._unseen.update(dict.fromkeys(memories, call))
        return ""

    def _remember(
        self,
        memories: dict[fx.Node, int],
        behind: Sequence[tuple[int, fx.Node]],
        memory: int,
        sight: _Sight,
        until: float,
    ) -> str:
        """Notes how a memory is seen, and all memories on the way to it; describes the first."""
        sights = {memory: sight}
        while memory:
            memory, operator_ = behind[memory]
            sight = sight.behind(operator_)
            sights[memory] = sight
        for name, place in memories.items():
            if place in sights:
                self._seen[name] = (sights[place], until)
        return str(sight)

    def _known_sight(self, call: fx.Node, name: fx.Node) -> tuple[_Sight, float] | None:
        known = self._seen.get(name)
        return known if known is not None and self._position[call] < known[1] else None

    def _sight(self, call: fx.Node, name: fx.Node) -> tuple[_Sight, float] | None:
        """How one value is seen, and the position before which a write to it is seen."""
        if not _is_operator(name):
            what = _OUTSIDE.get(name.op, "whose memory may be seen by others")
            return _Sight(f"writes to %{name.name}, {what}"), math.inf
        others = [user for user in name.users if user is not call]
        last = max(others, key=self._position.__getitem__, default=None)
        if last is not None and self._position[last] > self._position[call]:
            how = f"writes to memory of %{name.name}, which %{last.name} reads afterwards"
            return _Sight(how), self._position[last]
        for user in others:
            if not _is_operator(user):
                how = f"writes to memory of %{name.name}, which %{user.name} may keep"
                return _Sight(how), math.inf
        return None


@dataclass(frozen=True)
class _Sight:
    """How a write is seen.

    Attributes:
        how: What is written to, and what sees it.
        without: The operators that only some ranks may have, where the write is seen without them:
            the one nearest to what is written, and the one farthest from it.
    """

    how: str
    without: tuple[str, str] | None = None

    def behind(self, node: fx.Node) -> _Sight:
        """How a write to the result of an elementwise operator on that memory is seen."""
        return _Sight(self.how, (node.name, self.without[1] if self.without else node.name))

    def __str__(self) -> str:
        if self.without is None:
            return f"it {self.how}"
        last, first = self.without
        names = f"%{first}" if first == last else f"%{first} to %{last}"
        return f"on a rank that lacks {names} it {self.how}"


def _sharing(name: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The values that show a value's memory, and operands that stand for it on other ranks."""
    shown = [user for user in name.users if _may_view(user)]
    if _may_view(name):
        return [*_viewed(name), *shown], []
    if not _is_elementwise(name):
        return shown, []
    return shown, [operand for operand in name.all_input_nodes if _is_alike(operand, name)]


def _is_operator(node: fx.Node) -> bool:
    """Whether the schema of what a node calls says all about the memory of its result."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace != "c10d"


def _viewed(node: fx.Node) -> Iterator[fx.Node]:
    """The operands whose memory the result may share."""
    target: Any = node.target
    arguments = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else []
    named = {
        argument.name: node.args[place] if place < len(node.args) else None
        for place, argument in enumerate(arguments)
        if argument.alias_info is not None
    }
    found: list[fx.Node] = []
    held = [node.kwargs.get(name, given) for name, given in named.items()]
    fx.node.map_arg(held, found.append)
    yield from found or node.all_input_nodes


def _is_elementwise(node: fx.Node) -> bool:
    if node.target is torch.ops.aten.clone.default:
        return False  # a clone is there so that nobody writes to its operand
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _is_alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether one value may stand where another does: it has the same sizes, or none are known."""
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return a is None or b is None
    return a.dtype == b.dtype and tuple(map(str, a.shape)) == tuple(map(str, b.shape))


def _may_view(node: fx.Node) -> bool:
    target: Any = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if may_return_operand(target):
        return True
    if any(result.alias_info is not None for result in target._schema.returns):
        return True
    # The schema of an operator that is composed of others does not tell what it returns.
    return torch._C._dispatch_has_kernel_for_dispatch_key(target._name, "CompositeImplicitAutograd")
