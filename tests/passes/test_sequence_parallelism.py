"""The pass as torch.compile takes it: identity, pickling, dumps, ranges."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.goldens import load_golden
from torch._guards import CompileContext, CompileId, compile_context
from torch._inductor.custom_graph_pass import CustomGraphPass

import spfast
from spfast.recent import KEPT
from spfast.testing import declare

declare()
ALL_REDUCE = torch.ops.vllm.all_reduce.default
CONFIG = spfast.SequenceParallelConfig(
    tp_size=8, tp_rank=0, min_token_num=1024, max_num_batched_tokens=8192
)


def test_rewrites_and_remembers() -> None:
    sp = spfast.SequenceParallelismPass(CONFIG)
    assert isinstance(sp, CustomGraphPass)
    assert sp.matched_count == 0 and sp.result is None
    sp(load_golden("bf16_static_2layer").before)
    assert sp.matched_count == 5
    assert sp.result is not None and sp.result.matched_count == 5


def test_pickles_without_what_it_remembers() -> None:
    sp = spfast.SequenceParallelismPass(CONFIG)
    sp(load_golden("bf16_static_2layer").before)
    copy = pickle.loads(pickle.dumps(sp))
    assert copy.config == sp.config and copy.uuid() == sp.uuid()
    assert copy.result is None


def test_uuid_changes_with_config_and_rules() -> None:
    import dataclasses

    from spfast import patterns

    sp = spfast.SequenceParallelismPass(CONFIG)
    plain = sp.uuid()
    assert sp.uuid() is plain
    other = spfast.SequenceParallelismPass(dataclasses.replace(CONFIG, tp_rank=1))
    assert other.uuid() != plain
    registry = patterns.default_registry().copy()
    assert spfast.SequenceParallelismPass(CONFIG, registry).uuid() == plain

    @registry.register("another_rule", dialect="vllm_ir")
    def another(x, weight):  # type: ignore[no-untyped-def]
        return patterns.ops.aten.mul.Tensor(x, weight)

    assert spfast.SequenceParallelismPass(CONFIG, registry).uuid() != plain


def test_a_predicate_is_in_no_key_that_another_process_may_have() -> None:
    import dataclasses

    asked = spfast.SequenceParallelismPass(dataclasses.replace(CONFIG, replicated=callable))
    assert asked.uuid() is asked.uuid()
    assert pickle.loads(pickle.dumps(asked)).uuid() != asked.uuid()


def test_ranges() -> None:
    sp = spfast.SequenceParallelismPass(CONFIG)
    assert sp.is_applicable_for_range(spfast.Range(1024, 8192))
    assert not sp.is_applicable_for_range(spfast.Range(1, 8192))
    assert "starts below 1024 tokens" in sp.applicability(spfast.Range(1, 8192)).reason


@pytest.mark.parametrize("by", ["config", "environment"])
def test_dumps(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG
    if by == "environment":
        monkeypatch.setenv("SPFAST_DEBUG_DUMP", str(tmp_path))
    else:
        config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, debug_dump=str(tmp_path))
    spfast.SequenceParallelismPass(config)(load_golden("bf16_static_2layer").before)
    found = {path.name.split(".", 3)[3]: path.read_text() for path in tmp_path.iterdir()}
    texts = {"before.py", "after.py", "plan.txt", "result.txt", "patterns.py"}
    assert set(found) == {*texts, "report.html", "drawing.json"}
    assert "all_reduce" in found["before.py"] and "all_reduce" not in found["after.py"]
    assert "reduce_scatter" in found["after.py"]
    assert "def first_all_reduce_rms_norm" in found["patterns.py"]


def test_validated_result_is_proved() -> None:
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, validate=True)
    assert int(spfast.apply(load_golden("bf16_static_2layer").before, config)) == 5


def test_failed_validation_takes_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import spfast.verifier
    from spfast.verifier.report import Problem, Verification

    failed = Verification(problems=(Problem("mm", "is wrong"),))
    monkeypatch.setattr(spfast.verifier, "verify", lambda *_: failed)
    graph = load_golden("bf16_static_2layer").before
    before = [(n.name, n.target, n.args, list(n.users), dict(n.meta)) for n in graph.nodes]
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, validate=True)
    with pytest.raises(spfast.VerificationError, match="mm: is wrong"):
        spfast.apply(graph, config)
    after = [(n.name, n.target, n.args, list(n.users), dict(n.meta)) for n in graph.nodes]
    assert after == before
    assert torch.ops.vllm.all_reduce.default in {n.target for n in graph.nodes}


@pytest.mark.parametrize("call", [spfast.SequenceParallelismPass, spfast.explain, spfast.apply])
def test_what_is_no_config_is_refused_where_it_is_given(call: Any) -> None:
    given = (8,) if call is spfast.SequenceParallelismPass else (torch.fx.Graph(), 8)
    with pytest.raises(spfast.ConfigError) as error:
        call(*given)
    assert (
        str(error.value)
        == "config=8 is no config: expected a SequenceParallelConfig or None, got int"
    )


def test_what_is_no_registry_is_refused_where_it_is_given() -> None:
    with pytest.raises(spfast.ConfigError) as error:
        spfast.SequenceParallelismPass(CONFIG, registry="mine")  # type: ignore[arg-type]
    assert str(error.value) == (
        "registry='mine' is no registry: expected a spfast.patterns.Registry or None, got str"
    )


def test_reprs_say_what_was_given_and_done() -> None:
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0)
    assert repr(config) == "SequenceParallelConfig(tp_size=8, tp_rank=0)"
    assert eval(repr(config), vars(spfast)) == config
    sp = spfast.SequenceParallelismPass(config)
    assert repr(sp) == f"<SequenceParallelismPass with {config!r}; not called yet>"
    graph = load_golden("bf16_static_2layer").before
    assert repr(spfast.NodeTable.from_graph(graph)) == f"<NodeTable of {len(graph.nodes)} nodes>"
    sp(graph)
    assert repr(sp).endswith("; latest: 5 rewritten, 0 left>")
    assert repr(sp.result).startswith("Result(matched_count=5, by_pattern={'")
    assert repr(spfast.Result()) == "Result()"
    noop = spfast.NoOpEliminationPass()
    assert repr(noop) == "<NoOpEliminationPass; not called yet>"
    noop(graph)
    removed, shortened = noop.result.removed, noop.result.shortened
    done = f"NoOpResult(removed={removed}, shortened={shortened})"
    assert repr(noop) == f"<NoOpEliminationPass; latest: {done}>"
    assert repr(spfast.patterns.Registry()) == "<Registry of 0 rules, dialects none>"


def test_a_result_is_plain_data() -> None:
    result = spfast.apply(load_golden("bf16_static_2layer").before, CONFIG)
    data = result.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["matched_count"], data["skipped_count"], data["skipped"]) == (5, 0, [])
    assert sum(data["by_pattern"].values()) == 5
    assert data["timings"]["total"] == result.timings.total
    assert len(data["assumptions"]) == len(result.assumptions)


def test_fewer_tokens_than_were_asked_for_are_left() -> None:
    graph = load_golden("bf16_static_2layer").before
    tokens = int(graph.find_nodes(op="call_function", target=ALL_REDUCE)[0].meta["val"].shape[0])
    for given, left in ((tokens + 1, 5), (tokens, 0), (0, 0)):
        sp = spfast.SequenceParallelismPass(replace(CONFIG, min_token_num=given))
        sp(load_golden("bf16_static_2layer").before)
        assert sp.result is not None
        assert (sp.matched_count, len(sp.result.skipped)) == (5 - left, left)
        assert {site.reason for site in sp.result.skipped} <= {
            f"{tokens} tokens are fewer than {given} (min_token_num={given})"
        }


def test_a_compile_that_did_not_call_the_pass_is_said_to_be_unknown() -> None:
    sp = spfast.SequenceParallelismPass(CONFIG)
    context = CompileContext(CompileId(frame_id=0, frame_compile_id=0))
    sp.uuid()
    assert sp.result is None
    with compile_context(context):
        sp.uuid()  # and then the graph is found in the cache
    assert sp.result is not None and spfast.last_results()[-1] == sp.result
    assert str(sp.result) == f"note: {sp.result.note}"
    assert sp.result.note == (
        "a compile asked for this pass' cache key and has not called it since: its graph came from "
        "a cache, or the compile failed, and what was done to it is not known here; set "
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 to compile it anew"
    )
    sp(load_golden("bf16_static_2layer").before)
    assert sp.result.note == "" and int(sp.result) == 5
    assert spfast.last_results()[-1] is sp.result
    with compile_context(context):
        sp.uuid()
    assert int(sp.result) == sp.matched_count == 5 and "came from a cache" in str(sp.result)


def test_each_compile_that_did_not_call_the_pass_is_told() -> None:
    sp = spfast.SequenceParallelismPass(CONFIG)
    known = len(spfast.last_results())
    for number in range(3):
        with compile_context(CompileContext(CompileId(frame_id=number, frame_compile_id=0))):
            sp.uuid()
            sp.uuid()  # each cache asks
            if number == 1:  # the others' graphs were in the cache
                sp(load_golden("bf16_static_2layer").before)
    assert sp.result is not None and "came from a cache" in sp.result.note
    results = spfast.last_results()[known - KEPT if known == KEPT else known :]
    assert [bool(each.note) for each in results[-3:]] == [False, True, True]
    assert int(results[-3]) == 5
    del sp
    assert not spfast.last_results()[-1].note


def test_the_last_results_are_kept_and_no_more() -> None:
    sp = spfast.SequenceParallelismPass(CONFIG)
    sp(load_golden("bf16_static_2layer").before)
    assert spfast.last_results()[-1] is sp.result
    for _ in range(KEPT + 3):
        latest = spfast.apply(torch.fx.Graph(), CONFIG)
    assert len(spfast.last_results()) == KEPT and spfast.last_results()[-1] is latest
