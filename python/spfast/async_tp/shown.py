"""The nodes that show gathered rows: in another shape, as other bits, or rounded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from spfast.async_tp.collectives import Collective
from spfast.async_tp.reading import is_bit_view, is_cast, is_identity, is_view, same_size, tensor

__all__ = ["Shown", "shown_by"]


@dataclass(frozen=True)
class Shown:
    """A node that shows the gathered rows.

    Attributes:
        node: The node.
        steps: What turns the gathered values into what it holds, but for their shape.
    """

    node: fx.Node
    steps: tuple[fx.Node, ...] = ()


def shown_by(gather: Collective) -> dict[fx.Node, Shown]:
    """All nodes that show the gathered rows with all their features."""
    features = _features(gather.value)
    found = {gather.value: Shown(gather.value)}
    pending = [gather.value]
    while pending:
        node = pending.pop()
        for user in node.users:
            if user in found or not user.args or user.args[0] is not node:
                continue
            steps = found[node].steps
            if is_bit_view(user) or _narrows(user):
                steps = (*steps, user)
            elif not (is_view(user) or is_identity(user)):
                continue
            value = tensor(user)
            if value is None or value.dim() == 0 or not same_size(value.shape[-1], features):
                continue
            found[user] = Shown(user, steps)
            pending.append(user)
    return found


def _narrows(node: fx.Node) -> bool:
    """A cast that leaves no more bytes to gather."""
    if not is_cast(node):
        return False
    before, after = tensor(node.args[0]), tensor(node)
    return before is not None and after is not None and after.itemsize <= before.itemsize


def _features(node: fx.Node) -> object:
    value = tensor(node)
    assert value is not None
    return value.shape[-1]
