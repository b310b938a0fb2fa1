"""explain: one entry an all_reduce, with what was nearest; nothing is changed."""

from __future__ import annotations

import torch

import spfast
from spfast.testing.builder import GraphBuilder

aten = torch.ops.aten
CONFIG = spfast.SequenceParallelConfig(tp_size=4, tp_rank=0, recognise="patterns")


def test_says_what_was_nearest_and_where_it_differs() -> None:
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(aten.tanh.default, reduced)])
    graph = build.graph
    names = [node.name for node in graph.nodes]
    explanation = spfast.explain(graph, CONFIG)
    (entry,) = explanation.entries
    assert not entry.rewritten
    assert entry.reason == "no rule matches what reads it"
    assert "found %tanh_default = aten.tanh.default" in entry.nearest
    assert str(explanation).splitlines()[:2] == [
        "1 all_reduces, 0 rewritten, 1 left",
        "  %all_reduce_default: left: no rule matches what reads it",
    ]
    assert str(explanation).splitlines()[-4:] == [
        "    patterns alone: left: no rule matches what reads it",
        "    row-wise alone: rewritten by rowwise",
        "the patterns alone rewrite 0: rules for the operators around a norm",
        "the row-wise recogniser alone 1: all operators on each token alone",
    ]
    assert [node.name for node in graph.nodes] == names


def test_rewritten_entry_names_the_rule() -> None:
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    weight = build.placeholder("w", (16,), torch.float32)
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(torch.ops.vllm_ir.rms_norm.default, reduced, weight, 1e-5)])
    explanation = spfast.explain(build.graph, CONFIG)
    assert str(explanation) == (
        "1 all_reduces, 1 rewritten, 0 left\n"
        "  %all_reduce_default: rewritten by first_all_reduce_rms_norm\n"
        "collectives: all_reduce 1 -> 0, reduce_scatter 0 -> 1, all_gather 0 -> 1\n"
        "bytes that they move: 1,024 -> 1,024\n"
        "computed values at their peak: 1,024 -> 640 bytes\n"
        "gathered for what needs all tokens: output (1)\n"
        "the patterns alone rewrite 1: rules for the operators around a norm\n"
        "the row-wise recogniser alone 1: all operators on each token alone\n"
        "taken to be the same on every rank: w"
    )
    assert explanation.to_json()["entries"][0]["rewritten"] is True


def test_both_take_what_no_pattern_knows() -> None:
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(aten.tanh.default, reduced)])
    (entry,) = spfast.explain(
        build.graph, spfast.SequenceParallelConfig(tp_size=4, tp_rank=0)
    ).entries
    assert entry.rewritten and entry.rule == "rowwise"
    assert entry.patterns == "left: no rule matches what reads it"
    assert entry.rowwise == "rewritten by rowwise"


def test_both_say_why_neither_takes_it() -> None:
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(aten.t.default, reduced)])
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=0)
    (entry,) = spfast.explain(build.graph, config).entries
    assert entry.reason == (
        "no rule matches what reads it, "
        "and %t_default = aten.t.default reads it and needs all tokens"
    )
    assert entry.rowwise == "left: %t_default = aten.t.default reads it and needs all tokens"


def layers(count: int) -> GraphBuilder:
    """Layers of an all_reduce, a norm and a matmul, named as a trace does."""
    build = GraphBuilder(8, dynamic=False)
    x = build.placeholder("x", (8, 16), torch.float32)
    weight = build.placeholder("w", (16,), torch.float32)
    matrix = build.placeholder("m", (16, 16), torch.float32)
    for layer in range(count):
        reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
        stack = {"": (f"L['self'].layers[{layer}].mlp", torch.nn.Module)}
        reduced.meta["nn_module_stack"] = stack
        normed = build.call(torch.ops.vllm_ir.rms_norm.default, reduced, weight, 1e-5)
        x = build.call(aten.mm.default, normed, matrix)
    build.output([build.call(aten.cumsum.default, build.call(aten.t.default, x), 0)])
    return build


def test_what_is_alike_is_told_together() -> None:
    graph = layers(40).graph
    explanation = spfast.explain(graph, CONFIG)
    assert str(explanation).splitlines()[:6] == [
        "40 all_reduces, 40 rewritten, 0 left",
        "  40 of %all_reduce_default to %all_reduce_default_39 (layers.0 to layers.39): "
        "rewritten by first_all_reduce_rms_norm",
        "collectives: all_reduce 40 -> 0, reduce_scatter 0 -> 40, all_gather 0 -> 40",
        "bytes that they move: 40,960 -> 40,960",
        "computed values at their peak: 1,024 -> 1,024 bytes",
        "gathered for what needs all tokens: aten.mm.default (40)",
    ]
    assert len(explanation.text(verbose=True).splitlines()) == 39 + len(
        str(explanation).splitlines()
    )
    assert explanation.entries[7].layer == "layers.7"
    found = explanation.to_json()
    assert found["after"]["counts"] == {"reduce_scatter": 40, "all_gather": 40}


def test_after_a_rewrite_it_says_what_is_sharded() -> None:
    graph = layers(2).graph
    assert int(spfast.apply(graph, CONFIG)) == 2
    assert str(spfast.explain(graph, CONFIG)) == (
        "0 all_reduces, 0 rewritten, 0 left\nsharded already: 2 reduce_scatters, 2 all_gathers"
    )
