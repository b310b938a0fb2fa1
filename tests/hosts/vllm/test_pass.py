"""vLLM's interface to the pass, on graphs: groups, pieces, and what is said of them."""

from __future__ import annotations

import dataclasses
import logging
import operator
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from spfast.integrations.vllm import SequenceParallelismPass
from spfast.testing import ops


def config(**compilation: Any) -> Any:
    given = {"pass_config": SimpleNamespace(sp_min_token_num=1), **compilation}
    return SimpleNamespace(
        parallel_config=SimpleNamespace(tensor_parallel_size=2),
        compilation_config=SimpleNamespace(**given),
    )


@pytest.fixture(autouse=True)
def _group(monkeypatch: pytest.MonkeyPatch) -> None:
    state: Any = ModuleType("vllm.distributed.parallel_state")
    state._TP = SimpleNamespace(unique_name="tp:0", rank_in_group=0, world_size=2)
    monkeypatch.setitem(sys.modules, state.__name__, state)


def piece(sums: int, ends: int) -> fx.Graph:
    """A piece between two attentions: ``sums`` all_reduces, and ``ends`` values that leave it."""
    ops.declare()
    graph = fx.Graph()
    value = torch.empty(8, 16, device="meta")

    def node(made: fx.Node, like: torch.Tensor = value) -> fx.Node:
        made.meta["val"] = torch.empty_like(like)
        return made

    def call(target: Any, *arguments: Any) -> fx.Node:
        return node(graph.call_function(target, arguments))

    residual = node(graph.placeholder("residual"))
    weight = node(graph.placeholder("weight"), torch.empty(16, device="meta"))
    square = node(graph.placeholder("square"), torch.empty(16, 16, device="meta"))
    normed = node(graph.placeholder("attention"))
    outputs: list[fx.Node] = []
    for _ in range(sums):
        product = call(torch.ops.aten.mm.default, normed, square)
        reduced = call(torch.ops.vllm.all_reduce.default, product, "tp:0")
        both = graph.call_function(
            torch.ops.vllm_ir.fused_add_rms_norm.default, (reduced, residual, weight, 1e-6)
        )
        both.meta["val"] = (torch.empty_like(value), torch.empty_like(value))
        normed = node(graph.call_function(operator.getitem, (both, 0)))
        residual = node(graph.call_function(operator.getitem, (both, 1)))
    outputs = [normed, residual][:ends]
    graph.output(tuple(outputs))
    return graph


def test_a_piece_that_would_get_more_collectives_stays() -> None:
    split = SequenceParallelismPass(config(splitting_ops=["vllm::attention"]))
    middle = piece(sums=2, ends=2)  # two reduce_scatters and three all_gathers would stand there
    before = middle.python_code("self").src
    split(middle)
    assert middle.python_code("self").src == before
    assert split.matched_count == 0
    assert split.result is not None and {site.reason for site in split.result.skipped} == {
        "gathering what is computed from it would move more bytes than its all_reduce does, "
        "or as many in more collectives"
    }
    last = piece(sums=2, ends=1)
    split(last)
    assert split.matched_count == 2


@pytest.mark.parametrize(
    ("keeps", "last", "ends", "rewritten"),
    [(True, False, 2, 2), (True, True, 2, 0), (False, False, 2, 0), (True, False, 1, 2)],
)
def test_a_stage_keeps_its_residual_as_rows_where_the_next_one_gathers_it(
    keeps: bool, last: bool, ends: int, rewritten: int
) -> None:
    sys.modules["vllm.distributed.parallel_state"]._PP = SimpleNamespace(is_last_rank=last)
    sp = SequenceParallelismPass(config(), keeps_residual=keeps)
    stage = piece(sums=2, ends=ends)
    key = sp.uuid()
    pickle.loads(pickle.dumps(sp))(stage)
    sp(piece(sums=2, ends=ends))
    assert sp.matched_count == rewritten
    assert sp.uuid() == key
    returned = next(iter(reversed(stage.nodes))).args[0]
    assert "all_gather" in str(returned[0]) or not rewritten
    assert all("all_gather" not in str(each) for each in returned[1:])


def test_sites_of_other_groups_stay() -> None:
    sp = SequenceParallelismPass(config())
    graph = piece(sums=1, ends=1)
    (reduce,) = graph.find_nodes(op="call_function", target=torch.ops.vllm.all_reduce.default)
    reduce.update_arg(1, "ep:0")
    sp(graph)
    (site,) = sp.result.skipped
    assert site.reason == "its group 'ep:0' is not group_name='tp:0'"


def test_rank_0_says_what_was_rewritten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context: Any = ModuleType("vllm.compilation.passes.inductor_pass")
    context._pass_context = SimpleNamespace(compile_range=SimpleNamespace(start=8, end=64))
    monkeypatch.setitem(sys.modules, context.__name__, context)
    version: Any = ModuleType("vllm.version")
    version.__version__ = "0.32.0"
    monkeypatch.setitem(sys.modules, version.__name__, version)
    sp = SequenceParallelismPass(config(compile_ranges_endpoints=[7, 64]))
    with caplog.at_level(logging.INFO, logger="vllm.spfast"):
        sp(piece(sums=2, ends=1))
    (line,) = [each.getMessage() for each in caplog.records if each.name == "vllm.spfast"]
    assert line.endswith(
        "in vLLM 0.32.0: 2 of 2 all_reduces rewritten in the graph for 8 to 64 tokens, tp_size 2, "
        "from 1 tokens on (min_token_num=1), ranges [1, 7], [8, 64]"
    )
    caplog.clear()
    sys.modules["vllm.distributed.parallel_state"]._TP.rank_in_group = 1
    with caplog.at_level(logging.INFO, logger="vllm.spfast"):
        sp(piece(sums=2, ends=1))
    assert not [each for each in caplog.records if each.name == "vllm.spfast"]


def test_pairs_are_fused_after_the_rewrite_and_by_the_drop_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from spfast.integrations.vllm import AsyncTPPass
    from spfast.testing import async_tp_stand_in

    rows = {"enable": True, "async_tp": True}
    given = config()
    given.additional_config = {"spfast": rows}
    sp = SequenceParallelismPass(given)
    assert sp.config.async_tp
    # What the table knows nothing of stays; here every pair is taken.
    sp.config = dataclasses.replace(sp.config, async_tp_thresholds=())
    with async_tp_stand_in(), caplog.at_level(logging.INFO, logger="vllm.spfast"):
        sp(piece(sums=2, ends=1))
    assert sp.matched_count == 2 and sp.result is not None
    assert sp.result.async_tp is not None and len(sp.result.async_tp.fused) == 2
    (line,) = [each.getMessage() for each in caplog.records if each.name == "vllm.spfast"]
    assert "; 2 of 4 pairs fused; 1 left: its product hides an all_gather already" in line

    graph = piece(sums=2, ends=1)
    SequenceParallelismPass(config())(graph)
    fusing = AsyncTPPass(config())
    fusing.config = dataclasses.replace(fusing.config, async_tp_thresholds=())
    caplog.clear()
    with async_tp_stand_in(), caplog.at_level(logging.INFO, logger="vllm.spfast"):
        fusing(graph)
    assert fusing.matched_count == 2 and fusing.uuid() != SequenceParallelismPass(config()).uuid()
    (line,) = [each.getMessage() for each in caplog.records if each.name == "vllm.spfast"]
    assert "2 of 4 pairs fused" in line and line.endswith("tokens")
    assert pickle.loads(pickle.dumps(fusing)).config == fusing.config
