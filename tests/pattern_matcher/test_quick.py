"""What Inductor's FX passes do besides matching: the short ways give what torch's give."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.fx_utils as fx_utils
import torch._inductor.pattern_matcher as stock
from pattern_matcher.describe import describe, difference
from pattern_matcher.graphs import faked, several
from torch._dynamo.utils import counters
from torch._inductor.constant_folding import ConstantFolder

from bench.compile_models import FAMILIES, Mode, Stage, copied, stages
from spfast.integrations import inductor, quick

aten = torch.ops.aten


def test_the_functions_are_put_in_and_back() -> None:
    before = _installed()
    with inductor.patched():
        assert _installed() == [True] * len(before)
        with inductor.patched():
            assert _installed() == [True] * len(before)
        assert _installed() == [True] * len(before)
    assert _installed() == before == [False] * len(before)


def _installed() -> list[bool]:
    import torch._inductor.fx_passes.joint_graph as joint_graph
    import torch._inductor.fx_passes.post_grad as post_grad

    return [
        fx_utils.FakeTensorUpdater.incremental_update is quick.incremental_update,
        ConstantFolder.node_to_last_non_output_use is quick.node_to_last_non_output_use,
        fx_utils.get_fake_args_kwargs is quick.get_fake_args_kwargs,
        post_grad.get_fake_args_kwargs is quick.get_fake_args_kwargs,
        stock.stable_topological_sort is quick.stable_topological_sort,
        joint_graph.stable_topological_sort is quick.stable_topological_sort,
        post_grad.stable_topological_sort is quick.stable_topological_sort,
    ]


# Every family once, and each of training, dynamic and their opposites with several of them.
COMPILES = [
    ("llama", True, True),
    ("llama", False, False),
    ("qwen3", False, True),
    ("gpt_neox", True, False),
    ("bert", True, False),
    ("vit", False, False),
    ("mixtral", False, True),
]


@pytest.mark.parametrize(("family", "training", "dynamic"), COMPILES)
def test_a_compile_has_the_graphs_and_counters_of_torch(
    family: str, training: bool, dynamic: bool
) -> None:
    assert family in FAMILIES
    pytest.importorskip("transformers")
    found = stages(family, 1, Mode(training, dynamic))
    assert [stage.name for stage in found] == ["joint", *["post_grad"] * (1 + training)]
    for stage in found:
        theirs, their_counts = _passed(stage, contextlib.nullcontext)
        ours, our_counts = _passed(stage, inductor.patched)
        assert difference(describe(ours.graph), describe(theirs.graph)) is None
        assert our_counts == their_counts


def _passed(stage: Stage, how: Callable[[], Any]) -> tuple[torch.fx.GraphModule, dict[str, int]]:
    graph = copied(stage.graph)
    counters.clear()
    with how():
        graph = stage.run(graph)
    return graph, dict(counters["inductor"])


def _odd_graph() -> torch.fx.Graph:
    graph = torch.fx.Graph()
    known, unknown = graph.placeholder("known"), graph.placeholder("unknown")
    several, nested = graph.placeholder("several"), graph.placeholder("nested")
    known.meta["val"] = torch.empty(2)
    several.meta["val"] = (torch.empty(2), None)
    nested.meta["val"] = [known]
    weight = graph.get_attr("weight")
    arguments: list[Any] = [
        (known, 1, 2.5, "x", None, torch.float32, torch.device("cpu"), ...),
        (known, [known, [weight, (several,)]], {"a": known, "b": [unknown]}),
        (several, nested),
        (known, slice(known, None, 2)),
        (known, (slice(unknown, known), 3)),
        ({"a": slice(0, known)}, known),
        (known, unknown, weight, known),
        (known, range(3), torch.Size([2])),
        (),
    ]
    for one in arguments:
        graph.call_function(print, one, {"named": one[0]} if one else {})
    used = graph.call_function(print, (known,))
    graph.output((used, known, graph.call_function(print, (weight,))))
    return graph


def test_arguments_as_values_are_those_of_torch() -> None:
    graph = _odd_graph()
    root = torch.nn.Module()
    root.weight = torch.nn.Parameter(torch.empty(3))
    gm = torch.fx.GraphModule(root, graph)
    for node in graph.nodes:
        for more in [(), (gm,)] if quick._FAKE_KNOWS_MODULE else [()]:
            theirs = quick._torch_fake_args(node, *more)
            ours = quick.get_fake_args_kwargs(node, *more)
            assert _same(ours, theirs), node.format_node()


def _same(ours: Any, theirs: Any) -> bool:
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, (list, tuple)):
        pairs = zip(ours, theirs, strict=True)
        return len(ours) == len(theirs) and all(_same(a, b) for a, b in pairs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(_same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, torch.Tensor):
        return ours is theirs
    return bool(ours == theirs)


class _Folder:
    def __init__(self, graph: torch.fx.Graph) -> None:
        self.module = torch.fx.GraphModule({"weight": torch.empty(3)}, graph)


def test_last_uses_are_those_of_torch() -> None:
    folders = [_Folder(_odd_graph())]
    without = _odd_graph()
    for node in reversed(without.nodes):
        if quick._has_slice((node.args, node.kwargs)):
            without.erase_node(node)
    folders.append(_Folder(without))
    gm, _ = faked(several, (3, 4), (3, 4))
    folders.append(_Folder(gm.graph))
    assert [len(folder.module.graph.nodes) for folder in folders][:2] == [17, 14]
    for folder in folders:
        theirs = quick._torch_last_uses(folder)
        ours = quick.node_to_last_non_output_use(folder)
        assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("seed", range(20))
def test_a_graph_is_sorted_as_torch_sorts_it(seed: int) -> None:
    orders = []
    for sort in (quick._torch_sort, quick.stable_topological_sort):
        graph = _shuffled(seed)
        sort(graph)
        orders.append([node.name for node in graph.nodes])
        graph.lint()
    assert orders[0] == orders[1]


def _shuffled(seed: int) -> torch.fx.Graph:
    import random

    draw = random.Random(seed)
    gm, _ = faked(several, (3, 4), (3, 4))
    nodes = [node for node in gm.graph.nodes if node.op == "call_function"]
    for _ in range(draw.randrange(4)):
        node, other = draw.sample(nodes, 2)
        other.append(node)
    return gm.graph


def test_a_graph_with_a_cycle_is_refused_as_by_torch() -> None:
    graph = torch.fx.Graph()
    first = graph.call_function(print, ())
    second = graph.call_function(print, (first,))
    first.args = (second,)
    graph.output(second)
    for sort in (quick._torch_sort, quick.stable_topological_sort):
        with pytest.raises(AssertionError):
            sort(graph)


def test_modules_that_took_a_function_meanwhile_are_put_back() -> None:
    import types

    made = types.ModuleType("torch._inductor.spfast_test_module")
    sys.modules[made.__name__] = made
    try:
        with inductor.patched():
            made.stable_topological_sort = stock.stable_topological_sort  # type: ignore[attr-defined]
        assert made.stable_topological_sort is stock.stable_topological_sort  # type: ignore[attr-defined]
        assert stock.stable_topological_sort is quick._torch_sort
    finally:
        del sys.modules[made.__name__]
