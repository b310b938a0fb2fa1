"""Fake values brought up to date: graphs, values and counts as torch gives them, with less run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
import torch._inductor.fx_utils as fx_utils
from pattern_matcher.describe import describe, difference
from pattern_matcher.graphs import faked, several
from torch._inductor.virtualized import V

from spfast.integrations import updates
from spfast.integrations.foresight import Foresight, Unforeseen

aten = torch.ops.aten


def _other_stride(graph: torch.fx.Graph) -> None:
    (node,) = graph.find_nodes(op="call_function", target=aten.relu.default)
    with graph.inserting_before(node):
        made = graph.call_function(aten.t.default, (node.args[0],))
    node.replace_input_with(node.args[0], made)


def _other_operator(graph: torch.fx.Graph) -> None:
    (node,) = graph.find_nodes(op="call_function", target=aten.sum.dim_IntList)
    node.args = (node.args[0], [0], True)


def _same_operator(graph: torch.fx.Graph) -> None:
    (node,) = graph.find_nodes(op="call_function", target=aten.sin.default)
    with graph.inserting_before(node):
        made = graph.call_function(aten.cos.default, node.args)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _nothing(graph: torch.fx.Graph) -> None:
    return None


def _both(graph: torch.fx.Graph) -> None:
    _other_operator(graph)
    _other_stride(graph)


@pytest.mark.parametrize(
    "change", [_nothing, _other_stride, _other_operator, _same_operator, _both]
)
@pytest.mark.parametrize("stale", [False, True])
def test_an_update_is_that_of_torch(change: Callable[[Any], None], stale: bool) -> None:
    results = []
    for update in (updates._torch_update, updates.incremental_update):
        gm, mode = faked(several, (3, 4), (3, 4))
        updater = _updater(gm)
        change(gm.graph)
        if stale:  # an update is for nodes that changed: what else is wrong stays
            (node,) = gm.graph.find_nodes(op="call_function", target=aten.cat.default)
            node.meta["val"] = mode.from_tensor(torch.empty(1))
        with V.set_fake_mode(mode):
            counts = [update(updater)]
            once = copy.copy(updater.processed_hashes)
            counts.append(update(updater))
        numbers = {node: number for number, node in enumerate(gm.graph.nodes)}
        results.append((describe(gm.graph), counts, len(once), len(updater.processed_hashes)))
        assert len(once) >= len(numbers)
    assert difference(results[1][0], results[0][0]) is None
    assert results[1][1:] == results[0][1:]


def _updater(gm: torch.fx.GraphModule) -> Any:
    make: Any = fx_utils.FakeTensorUpdater
    try:
        return make(gm)
    except AttributeError:  # an older torch takes the graph
        return make(gm.graph)


def test_an_update_asks_only_for_nodes_that_changed(monkeypatch: Any) -> None:
    if not updates._UPDATES_BY_MODULE:
        pytest.skip("this torch asks for no others")
    gm, mode = faked(several, (3, 4), (3, 4))
    updater = _updater(gm)
    asked: list[str] = []
    original = fx_utils.get_fake_args_kwargs

    def counting(node: torch.fx.Node, *more: Any) -> Any:
        asked.append(node.name)
        return original(node, *more)

    monkeypatch.setattr(fx_utils, "get_fake_args_kwargs", counting)
    _other_operator(gm.graph)
    with V.set_fake_mode(mode):
        updates.incremental_update(updater)
    assert asked == ["sum_1", "output"]


def test_an_update_that_fails_leaves_the_updater_as_it_was() -> None:
    if not updates._UPDATES_BY_MODULE:
        pytest.skip("this torch updates in its own way")
    gm, mode = faked(several, (3, 4), (3, 4))
    updater = _updater(gm)
    known = copy.copy(updater.processed_hashes)
    (node,) = gm.graph.find_nodes(op="call_function", target=aten.sum.dim_IntList)
    node.args = (node.args[0], [7])
    with V.set_fake_mode(mode), pytest.raises(IndexError):
        updates.incremental_update(updater)
    assert updater.gm is gm
    assert updater.processed_hashes == known


always_replaces = pytest.mark.skipif(
    not updates._always_replaces(), reason="this torch leaves values that are equal"
)


def _layers(x: torch.Tensor, y: torch.Tensor) -> Any:
    for _ in range(4):
        x = aten.relu(aten.mm(x, aten.t(y)))
        x = aten.reshape(aten.unsqueeze(x, 0), [3, 3])
        x = aten.split_with_sizes(x, [3])[0]
    return x, aten.neg(y)


def _updated(
    change: Callable[[torch.fx.Graph, Any], None], update: Callable[..., int]
) -> tuple[torch.fx.Graph, int]:
    gm, mode = faked(_layers, (3, 3), (3, 3))
    updater = _updater(gm)
    change(gm.graph, mode)
    with V.set_fake_mode(mode):
        count = update(updater)
    return gm.graph, count


def _both_updated(change: Callable[[torch.fx.Graph, Any], None]) -> torch.fx.Graph:
    theirs, their_count = _updated(change, updates._torch_update)
    ours, our_count = _updated(change, updates.incremental_update)
    assert difference(describe(ours), describe(theirs)) is None
    assert our_count == their_count
    return ours


def _other_input(graph: torch.fx.Graph, _mode: Any = None) -> None:
    """The first product reads the other input, of the same kind: all after it is as it was."""
    _, other = graph.find_nodes(op="placeholder")
    first = graph.find_nodes(op="call_function", target=aten.mm.default)[0]
    first.args = (other, first.args[1])


def _nodes(graph: torch.fx.Graph, target: Any) -> list[torch.fx.Node]:
    return list(graph.find_nodes(op="call_function", target=target))


@always_replaces
def test_values_that_are_equal_stay() -> None:
    kept: dict[str, Any] = {}

    def change(graph: torch.fx.Graph, mode: Any) -> None:
        kept.update({node.name: node.meta.get("val") for node in graph.nodes})
        _other_input(graph)

    _both_updated(change)
    graph, count = _updated(change, updates.incremental_update)
    assert count > 20
    # An operator with several results is run again: they are replaced, and what takes them apart.
    replaced = {node for node in graph.nodes if node.meta.get("val") is not kept[node.name]}
    assert replaced == {*_nodes(graph, aten.split_with_sizes.default), *_nodes(graph, getitem)}


@always_replaces
def test_an_operator_is_run_once_for_each_kind(monkeypatch: Any) -> None:
    ran: list[str] = []
    ask = Foresight._ask

    def counting(self: Any, node: torch.fx.Node, storages: list[int]) -> Any:
        ran.append(str(node.target))
        return ask(self, node, storages)

    monkeypatch.setattr(Foresight, "_ask", counting)
    _updated(_other_input, updates.incremental_update)
    assert ran.count("aten.relu.default") == 1
    # The weight is read transposed; the first product reads it for its other operand besides.
    assert ran.count("aten.mm.default") == 2


def test_a_view_with_a_storage_of_its_own_is_mended() -> None:
    def change(graph: torch.fx.Graph, mode: Any) -> None:
        _other_input(graph)
        _nodes(graph, aten.unsqueeze.default)[1].meta["val"] = mode.from_tensor(
            torch.empty(1, 3, 3)
        )

    graph = _both_updated(change)
    view = _nodes(graph, aten.unsqueeze.default)[1]
    assert view.args[0].meta["val"].untyped_storage()._cdata == (  # type: ignore[union-attr]
        view.meta["val"].untyped_storage()._cdata
    )


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_value_that_stays_shares_nothing_with_one_that_torch_replaces(place: int) -> None:
    """The last node, which nothing changed, is told to lie in the storage of one that did."""

    def change(graph: torch.fx.Graph, mode: Any) -> None:
        _other_input(graph)
        value = _nodes(graph, aten.relu.default)[place].meta["val"]
        with mode:
            _nodes(graph, aten.neg.default)[0].meta["val"] = value.view(3, 3)

    graph = _both_updated(change)
    both = [_nodes(graph, aten.relu.default)[place], _nodes(graph, aten.neg.default)[0]]
    storages = {node.meta["val"].untyped_storage()._cdata for node in both}
    assert len(storages) == 2 or not updates._always_replaces()


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_value_of_another_kind_is_replaced_and_all_that_read_it(place: int) -> None:
    def change(graph: torch.fx.Graph, mode: Any) -> None:
        node = _nodes(graph, aten.relu.default)[place]
        node.target = aten.isnan.default

    graph = _both_updated(change)
    (changed,) = _nodes(graph, aten.isnan.default)
    # An older torch looks at the shape alone.
    assert changed.meta["val"].dtype is torch.bool or not updates._always_replaces()


def test_two_values_in_one_storage_are_taken_apart() -> None:
    def change(graph: torch.fx.Graph, mode: Any) -> None:
        _other_input(graph)
        first, second = _nodes(graph, aten.relu.default)[1:3]
        second.meta["val"] = first.meta["val"]

    graph = _both_updated(change)
    first, second = _nodes(graph, aten.relu.default)[1:3]
    assert first.meta["val"] is not second.meta["val"] or not updates._always_replaces()


def test_what_the_output_says_of_a_value_stays_what_it_was() -> None:
    def change(graph: torch.fx.Graph, mode: Any) -> None:
        _other_input(graph)
        (output,) = graph.find_nodes(op="output")
        output.meta["val"] = [
            _nodes(graph, aten.relu.default)[place].meta["val"] for place in (1, 3)
        ]

    graph = _both_updated(change)
    (output,) = graph.find_nodes(op="output")
    relu = _nodes(graph, aten.relu.default)[3].meta["val"]
    assert relu is not output.meta["val"][1] or not updates._always_replaces()


def test_a_graph_with_lowered_code_is_updated_by_torch_alone() -> None:
    def lowered(*_args: Any) -> None:
        raise AssertionError("lowered code is no function of fake values")

    lowered._inductor_lowering_function = True  # type: ignore[attr-defined]

    graph, _ = _updated(_other_input, updates.incremental_update)
    first = _nodes(graph, aten.relu.default)[0]
    cascade = updates._Cascade(graph, {first})
    assert not cascade.foresees, "no fake mode is current"
    with V.set_fake_mode(first.meta["val"].fake_mode):
        assert updates._Cascade(graph, {first}).foresees == updates._always_replaces()
        first.target = lowered
        assert not updates._Cascade(graph, {first}).foresees


FOREIGN = torch.library.Library("spfast_updates", "DEF")  # type: ignore[no-untyped-call]
FOREIGN.define("twice(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
FOREIGN.impl("twice", torch.neg, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


def test_what_only_an_operator_can_tell_is_asked_of_it() -> None:
    """Operators that are not torch's, and those that look at what is in their operands."""

    def change(graph: torch.fx.Graph, mode: Any) -> None:
        node = _nodes(graph, aten.relu.default)[1]
        node.target = torch.ops.spfast_updates.twice.default
        _other_input(graph)

    graph = _both_updated(change)
    (node,) = _nodes(graph, torch.ops.spfast_updates.twice.default)
    foresight = Foresight(node.meta["val"].fake_mode)
    with pytest.raises(Unforeseen):
        foresight.outcome(node)
    relu = _nodes(graph, aten.relu.default)[0]
    assert foresight.outcome(relu) == (foresight.kind(relu.meta["val"])[0], None)
    relu.target = aten.nonzero.default
    with pytest.raises(Unforeseen):
        foresight.outcome(relu)
