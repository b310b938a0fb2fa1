"""Wide nodes change all their operands at once, and whoever wants to hear of each still does."""

from __future__ import annotations

import torch
from torch import fx

from spfast.fxgraph.rewiring import rewire_operands


def wide() -> tuple[fx.GraphModule, list[fx.Node], fx.Node]:
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{i}") for i in range(6)]
    user = graph.call_function(max, (inputs[0], [inputs[1], {"key": inputs[2]}], inputs[0]))
    graph.output(user)
    return fx.GraphModule(torch.nn.Module(), graph), inputs, user


def test_operands_and_users_change() -> None:
    _, x, user = wide()
    rewire_operands(user, {x[0]: x[3], x[2]: x[4]})
    assert user.args == (x[3], [x[1], {"key": x[4]}], x[3])
    assert user.all_input_nodes == [x[3], x[1], x[4]]
    assert not x[0].users and not x[2].users
    assert list(x[3].users) == list(x[4].users) == [user]


def test_two_nodes_change_places() -> None:
    _, x, user = wide()
    rewire_operands(user, {x[0]: x[1], x[1]: x[0]})
    assert user.args == (x[1], [x[0], {"key": x[2]}], x[1])


def test_hooks_hear_of_each() -> None:
    module, x, user = wide()
    heard = []
    module._register_replace_node_hook(lambda old, new, user: heard.append((old, new)))
    rewire_operands(user, {x[0]: x[3], x[2]: x[4]})
    assert heard == [(x[0], "x3"), (x[2], "x4")]
    assert user.args == (x[3], [x[1], {"key": x[4]}], x[3])
