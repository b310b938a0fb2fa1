"""What a user sees of one call: results, reasons, errors, logs."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.testing.builder import TOKENS, GraphBuilder

aten = torch.ops.aten
CONFIG = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1)


def one_site(
    tokens: int = 8,
    dynamic: bool = False,
    epsilon: float = 1e-5,
    group: str = "tp:0",
    second_group: str | None = None,
) -> fx.Graph:
    """all_reduce -> norm -> mm -> all_reduce + residual -> norm."""
    build = GraphBuilder(tokens, dynamic)
    x = build.placeholder("x", (TOKENS if dynamic else tokens, 16), torch.float32)
    weight = build.placeholder("w", (16,), torch.float32)
    square = build.placeholder("m", (16, 16), torch.float32)
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, group)
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, reduced, weight, epsilon)
    product = build.call(aten.mm.default, normed, square)
    again = build.call(torch.ops.vllm.all_reduce.default, product, second_group or group)
    both = build.call(torch.ops.vllm_ir.fused_add_rms_norm.default, again, reduced, weight, epsilon)
    import operator

    build.output([build.call(operator.getitem, both, 0)])
    return build.graph


def dump(graph: fx.Graph) -> list[Any]:
    return [
        (n.name, n.op, n.target, n.args, n.kwargs, list(n.users), dict(n.meta)) for n in graph.nodes
    ]


def test_result_counts_by_rule() -> None:
    result = spfast.apply(one_site(), CONFIG)
    assert result.matched_count == int(result) == 2
    assert dict(result.by_pattern) == {
        "first_all_reduce_rms_norm": 1,
        "middle_all_reduce_rms_norm": 1,
    }
    assert result.skipped == ()
    assert result.timings.total >= result.timings.encode > 0


def test_result_pickles() -> None:
    result = spfast.apply(one_site(), CONFIG)
    assert pickle.loads(pickle.dumps(result)) == result


def test_plan_is_recorded_only_when_asked_for() -> None:
    assert spfast.apply(one_site(), CONFIG).plan == ""
    plan = spfast.apply(one_site(), CONFIG, record_plan=True).plan
    assert "= vllm.reduce_scatter.default(%x, 0, 4, 'tp:0')" in plan


def test_takes_a_graph_module() -> None:
    module = fx.GraphModule(torch.nn.Module(), one_site())
    assert int(spfast.apply(module, CONFIG)) == 2


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, 3e-6, 1e-8])
def test_any_epsilon(epsilon: float) -> None:
    assert int(spfast.apply(one_site(epsilon=epsilon), CONFIG)) == 2


def test_second_run_changes_nothing() -> None:
    graph = one_site()
    spfast.apply(graph, CONFIG)
    before = dump(graph)
    assert int(spfast.apply(graph, CONFIG)) == 0
    assert dump(graph) == before


def test_names_are_the_same_in_every_run() -> None:
    names = []
    for _ in range(2):
        graph = one_site()
        spfast.apply(graph, CONFIG)
        names.append([node.name for node in graph.nodes])
    assert names[0] == names[1]


# --- what stays -----------------------------------------------------------------------------------


def test_indivisible_static_tokens_stay_with_the_reason() -> None:
    graph = one_site(tokens=9)
    before = dump(graph)
    result = spfast.apply(graph, CONFIG)
    assert int(result) == 0
    assert [site.reason for site in result.skipped] == [
        "9 tokens are not divisible by tp_size 4"
    ] * 2
    assert dump(graph) == before


def test_dynamic_tokens_are_guarded() -> None:
    graph = one_site(dynamic=True)
    env = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].fake_mode.shape_env
    assert int(spfast.apply(graph, CONFIG)) == 2
    assert [str(guard.expr) for guard in env.guards if "Mod" in str(guard.expr)] != []


def test_dynamic_tokens_that_are_not_proved_stay() -> None:
    graph = one_site(dynamic=True)
    env = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].fake_mode.shape_env
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, divisibility="prove")
    result = spfast.apply(graph, config)
    assert int(result) == 0
    assert "are not proved to be divisible by tp_size 4" in result.skipped[0].reason
    assert not [guard for guard in env.guards if "Mod" in str(guard.expr)]


def test_assumed_divisibility_adds_no_guard() -> None:
    graph = one_site(dynamic=True)
    env = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].fake_mode.shape_env
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, divisibility="assume")
    assert int(spfast.apply(graph, config)) == 2
    assert not [guard for guard in env.guards if "Mod" in str(guard.expr)]


def test_dynamic_example_that_is_not_divisible_stays() -> None:
    result = spfast.apply(one_site(tokens=9, dynamic=True), CONFIG)
    assert int(result) == 0
    assert "are 9 in the example, which is not divisible by tp_size 4" in result.skipped[0].reason


def test_an_odd_example_guards_that_it_is_one() -> None:
    graph = one_site(tokens=9, dynamic=True)
    tokens = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].shape[0]
    env = tokens.node.shape_env
    assert int(spfast.apply(graph, CONFIG)) == 0
    # Taken for no even number of tokens: those are compiled anew.
    assert [str(guard.expr) for guard in env.guards if "Mod" in str(guard.expr)] == [
        f"Ne(Mod({tokens}, 4), 0)"
    ]


@pytest.mark.parametrize(
    ("tokens", "dynamic", "said"),
    [
        (9, False, ("9 tokens to 12",)),
        (1, False, ("1 tokens to 4",)),
        (8, False, ()),
        (9, True, ("{0} tokens to 4*((({0} + 3)//4))",)),
        (8, True, ("{0} tokens to 4*((({0} + 3)//4))",)),
    ],
)
def test_padding_makes_every_count_a_multiple(
    tokens: int, dynamic: bool, said: tuple[str, ...]
) -> None:
    graph = one_site(tokens=tokens, dynamic=dynamic)
    value = graph.find_nodes(op="placeholder", target="x")[0].meta["val"]
    guards = len(value.fake_mode.shape_env.guards)
    config = replace(CONFIG, divisibility="pad", validate=True)
    foreseen = spfast.explain(graph, config)
    result = spfast.apply(graph, config)
    assert int(result) == 2 and len(value.fake_mode.shape_env.guards) == guards
    assert result.padded == foreseen.padded == tuple(one.format(value.shape[0]) for one in said)
    line = f"  padded in the graph: {', '.join(result.padded)}; a host that pads its batches does"
    for text in (str(result), str(foreseen)):
        assert (line in text) == bool(said)
    pads = graph.find_nodes(op="call_function", target=aten.constant_pad_nd.default)
    assert len(pads) == (2 if said else 0)


@pytest.mark.parametrize(
    ("divisibility", "tokens"), [("pad", 2), ("pad", 3), ("pad", 4), ("guard", 4)]
)
def test_one_row_a_rank_in_the_example_is_left_with_a_guard(divisibility: Any, tokens: int) -> None:
    graph = one_site(tokens=tokens, dynamic=True)
    size = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].shape[0]
    result = spfast.apply(graph, replace(CONFIG, divisibility=divisibility))
    assert int(result) == 0 and result.padded == ()
    assert result.skipped[0].reason == (
        f"{size} tokens are {tokens} in the example, which is one row or none for each of 4 ranks, "
        "and torch compiles for such a number apart"
    )
    assert str(size.node.shape_env.guards[-1].expr) == f"{size} < 8"


def test_no_tokens_are_not_padded() -> None:
    result = spfast.apply(one_site(tokens=0), replace(CONFIG, divisibility="pad"))
    assert result.skipped[0].reason == "0 tokens are not divisible by tp_size 4"


@pytest.mark.parametrize("divisibility", ["pad", "prove"])
def test_a_known_multiple_is_proved_and_not_padded(divisibility: Any) -> None:
    from torch.fx.experimental.symbolic_shapes import guard_bool

    graph = one_site(dynamic=True)
    tokens = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].shape[0]
    guard_bool(tokens % 8 == 0)
    result = spfast.apply(graph, replace(CONFIG, divisibility=divisibility, validate=True))
    assert int(result) == 2 and result.padded == ()


@pytest.mark.parametrize("given", [{"divisibility": "prove"}, {"group_name": "other"}])
def test_an_odd_example_of_what_stays_anyway_adds_no_guard(given: dict[str, Any]) -> None:
    graph = one_site(tokens=9, dynamic=True)
    env = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].fake_mode.shape_env
    assert int(spfast.apply(graph, replace(CONFIG, **given))) == 0
    assert not [guard for guard in env.guards if "Mod" in str(guard.expr)]


def test_explain_adds_no_guard() -> None:
    graph = one_site(tokens=9, dynamic=True)
    env = graph.find_nodes(op="placeholder", target="x")[0].meta["val"].fake_mode.shape_env
    assert ", 0 rewritten" in str(spfast.explain(graph, CONFIG))
    assert not [guard for guard in env.guards if "Mod" in str(guard.expr)]


def test_other_groups_stay_when_one_is_named() -> None:
    config = spfast.SequenceParallelConfig(
        tp_size=4, tp_rank=1, group_name="tp:0", recognise="patterns"
    )
    result = spfast.apply(one_site(second_group="other:0"), config)
    assert int(result) == 1
    assert [site.reason for site in result.skipped] == [
        "its group 'other:0' is not group_name='tp:0'"
    ]


def test_one_rank_has_nothing_to_share() -> None:
    result = spfast.apply(one_site(), spfast.SequenceParallelConfig(tp_size=1, tp_rank=0))
    assert [site.reason for site in result.skipped] == [
        "its group 'tp:0' has one rank: there is nothing to share"
    ] * 2


def test_missing_value_inside_a_site_leaves_that_site() -> None:
    graph = one_site()
    norm = graph.find_nodes(op="call_function", target=torch.ops.vllm_ir.rms_norm.default)[0]
    del norm.meta["val"]
    result = spfast.apply(graph, CONFIG)
    graph.lint()
    assert int(result) == 1
    (site,) = result.skipped
    assert site.reason == 'the size of %rms_norm_default is not known: it has no meta["val"]'


@pytest.mark.parametrize("odd", [(), 3, "text", torch.tensor(1.0), [torch.zeros(2)]])
def test_a_tuple_of_what_cannot_be_sharded_leaves_its_site(odd: Any) -> None:
    graph = one_site()
    fused = torch.ops.vllm_ir.fused_add_rms_norm.default
    (norm,) = graph.find_nodes(op="call_function", target=fused)
    norm.meta["val"] = (norm.meta["val"][0], odd)
    result = spfast.apply(graph, CONFIG)
    graph.lint()
    assert "all_reduce_default_1" in {site.node for site in result.skipped}
    assert norm.meta["val"][1] is odd


def test_a_tuple_with_nothing_in_a_place_keeps_it() -> None:
    graph = one_site()
    fused = torch.ops.vllm_ir.fused_add_rms_norm.default
    (norm,) = graph.find_nodes(op="call_function", target=fused)
    norm.meta["val"] = (norm.meta["val"][0], None)
    assert int(spfast.apply(graph, CONFIG)) == 2
    assert norm.meta["val"][0].shape == (2, 16) and norm.meta["val"][1] is None


# --- errors ---------------------------------------------------------------------------------------


def test_not_a_graph() -> None:
    with pytest.raises(spfast.GraphError) as error:
        spfast.apply("graph", CONFIG)  # type: ignore[arg-type]
    expected = "str is not a graph: pass an fx.Graph, a GraphModule or an ExportedProgram"
    assert str(error.value) == expected


def test_unresolvable_group_names_the_fields_to_pass() -> None:
    graph = one_site()
    before = dump(graph)
    with pytest.raises(ValueError) as error:
        spfast.apply(graph)
    assert str(error.value) == (
        "process group 'tp:0' is not known to torch.distributed in this process: "
        "pass tp_size and tp_rank in the config, or initialise the group first"
    )
    assert dump(graph) == before


def test_dangling_operand() -> None:
    graph = one_site()
    other = fx.Graph().placeholder("stranger")
    graph.find_nodes(op="call_function", target=aten.mm.default)[0].args = (other, other)
    with pytest.raises(spfast.GraphError, match="reads %stranger, which belongs to another graph"):
        spfast.apply(graph, CONFIG)


def test_rank_outside_the_group() -> None:
    with pytest.raises(ValueError, match="tp_rank=4 is outside tp_size=4"):
        spfast.SequenceParallelConfig(tp_size=4, tp_rank=4)


# --- logging --------------------------------------------------------------------------------------


def test_one_line_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="spfast"):
        spfast.apply(one_site(tokens=9), CONFIG)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "sequence parallelism: 2 all_reduces, 0 rewritten, "
        "2 left: 9 tokens are not divisible by tp_size 4, "
    )


def test_torch_logs_and_torch_trace_show_it(tmp_path: Path) -> None:
    script = (
        "import torch, spfast\n"
        "graph = torch.fx.Graph()\n"
        "node = graph.placeholder('x')\n"
        "graph.output(graph.call_function(torch.ops._c10d_functional.all_reduce.default,"
        " (node, 'sum', '0')))\n"
        "spfast.apply(graph, spfast.SequenceParallelConfig(tp_size=2, tp_rank=0))\n"
    )
    for asked in ({"TORCH_LOGS": "spfast", "TORCH_TRACE": str(tmp_path)}, {}):
        ended = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, **asked},
        )
        assert ended.returncode == 0, ended.stderr
        assert ("] sequence parallelism: 1 all_reduces, " in ended.stderr) == bool(asked)
    (trace,) = tmp_path.iterdir()
    assert '"artifact": {"name": "spfast_sequence_parallelism"' in trace.read_text()


# --- the process ----------------------------------------------------------------------------------


def test_garbage_collector_is_as_it_was() -> None:
    import gc

    spfast.apply(one_site(), CONFIG)
    assert gc.isenabled()
    gc.disable()
    try:
        spfast.apply(one_site(), CONFIG)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(spfast.ConfigError):
        spfast.apply(one_site())
    assert gc.isenabled()


def test_a_graph_that_is_left_for_no_gain_rests_on_no_guard() -> None:
    build = GraphBuilder(8, True)
    x = build.placeholder("x", (TOKENS, 16), torch.float32, "per_rank")
    weight = build.placeholder("w", (16,), torch.float32)
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, reduced, weight, 1e-5)
    build.output([normed, reduced])
    result = spfast.apply(build.graph, CONFIG)
    assert result.matched_count == 0 and len(result.skipped) == 1
    environment = build.mode.shape_env
    assert environment is not None and environment.guards == []
