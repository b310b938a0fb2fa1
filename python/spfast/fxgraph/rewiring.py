"""Changes many operands of one node at once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx
from torch.fx.node import map_arg

__all__ = ["rewire_operands"]


def rewire_operands(user: fx.Node, now: Mapping[fx.Node, fx.Node]) -> None:
    """Lets a node read other nodes instead of some operands, wherever these stand.

    Args:
        user: The node.
        now: For each node that it reads no more, what it reads instead.

    Example:
        >>> graph = fx.Graph()
        >>> x, y = graph.placeholder("x"), graph.placeholder("y")
        >>> both = graph.call_function(max, (x, [x, y]))
        >>> rewire_operands(both, {x: y})
        >>> both.args
        (y, [y, y])
    """
    if getattr(user.graph.owning_module, "_replace_hooks", None):
        # The graph has hooks that want to hear of each replacement.
        for old, new in now.items():
            user.replace_input_with(old, new)
        return

    def read(node: fx.Node) -> fx.Node:
        return now.get(node, node)

    user._update_args_kwargs(map_arg(user.args, read), map_arg(user.kwargs, read))
