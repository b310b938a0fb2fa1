"""A training step computes the same losses and gradients, with fewer and smaller collectives."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
import torch._inductor.config as inductor_config
from torch._guards import CompileContext, CompileId, compile_context

import spfast
from spfast.integrations.inductor import enable
from spfast.testing.builder import GraphBuilder
from spfast.testing.gloo import run_ranks
from tests.training.steps import Compared, compare, many_steps, narrow

LONG = bool(os.environ.get("SPFAST_LONG"))
FAMILIES = ["hf_llama", "hf_gpt_neox"]
MORE = ["hf_qwen3", "hf_gemma3", "hf_mixtral"]


def check(found: list[list[Compared]]) -> None:
    for ranks in zip(*found, strict=True):
        for one in ranks:
            assert one.loss[0] == pytest.approx(one.loss[1], rel=1e-6)
            assert one.worst < 1e-6, one.where
            assert one.merged > 0
            assert one.after == ranks[0].after, "the ranks' collectives differ"
            # Four a layer, forward and backward, and what is saved is one rank's rows: beside a
            # gather for each there is that of the logits.
            assert one.after["all_reduce"] == 0
            assert one.after["reduce_scatter"] == one.before["all_reduce"] - one.merged
            assert one.after["all_gather"] <= one.after["reduce_scatter"] + 1
            assert one.totals > 0


def test_two_ranks() -> None:
    check(run_ranks(compare, 2, (FAMILIES + (MORE if LONG else []),), timeout=900))


@pytest.mark.skipif(not LONG, reason="compiles ten steps on four ranks: SPFAST_LONG=1")
def test_four_ranks() -> None:
    check(run_ranks(compare, 4, (FAMILIES + MORE,), timeout=1800))


@pytest.mark.skipif(not LONG, reason="compiles fifteen steps: SPFAST_LONG=1")
@pytest.mark.parametrize("ranks", [2, 4])
def test_bfloat16_is_no_further_from_float64(ranks: int) -> None:
    families = [*FAMILIES, *MORE]
    for found in run_ranks(narrow, ranks, (families,), timeout=1800):
        for family, one in zip(families, found, strict=True):
            assert one.collectives["reduce_scatter"] > 0, family
            assert 0 < one.mine < 1.1 * one.plain, (family, one)


@pytest.mark.skipif(not LONG, reason="trains five models for minutes: SPFAST_LONG=1")
def test_fifty_steps_of_adamw_have_the_same_losses() -> None:
    for found in run_ranks(many_steps, 2, ([*FAMILIES, *MORE], 50), timeout=1800):
        for family, (plain, mine) in found.items():
            assert plain[-1] < plain[0] / 100, f"{family} learns"
            assert mine == pytest.approx(plain, rel=1e-5), family


def test_enable_refuses_a_place_that_is_taken() -> None:
    with enable() as enabled:
        assert inductor_config.post_grad_custom_pre_pass is enabled.inference
        assert inductor_config.joint_custom_post_pass is enabled.joint
        with pytest.raises(spfast.ConfigError) as error:
            enable()
    assert str(error.value) == (
        "torch._inductor.config.joint_custom_post_pass is set already: call the passes of "
        "spfast.passes from yours, or unset it"
    )
    assert inductor_config.post_grad_custom_pre_pass is None
    assert inductor_config.joint_custom_post_pass is None


def test_enable_refuses_what_is_no_answer() -> None:
    with pytest.raises(spfast.ConfigError, match="recompute_gather='often'"):
        enable(recompute_gather="often")  # type: ignore[arg-type]
    assert inductor_config.joint_custom_post_pass is None


def test_gathering_again_is_another_pass_to_a_cache() -> None:
    keys = set()
    for again in (False, True):
        with enable(recompute_gather=again) as enabled:
            keys.add(enabled.joint.uuid())
            copied = pickle.loads(pickle.dumps(enabled.joint))
            assert copied.recompute_gather is again and copied.uuid() == enabled.joint.uuid()
    assert len(keys) == 2


def test_a_graph_without_gradients_is_left_to_the_pass_after_it() -> None:
    build = GraphBuilder(8, False)
    x = build.placeholder("x", (8, 4), torch.float32, "per_rank")
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(torch.ops.aten.relu.default, reduced)])
    with enable(spfast.SequenceParallelConfig(tp_size=2, tp_rank=0)) as enabled:
        before = str(build.graph)
        enabled.joint(build.graph)
        assert str(build.graph) == before and enabled.joint.result is None
        enabled.inference(build.graph)
        assert enabled.inference.matched_count == 1


def test_the_parts_of_a_joint_graph_are_not_rewritten_again() -> None:
    build = GraphBuilder(8, False)
    x = build.placeholder("tangents_1", (4, 4), torch.float32, "per_rank")
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    build.output([build.call(torch.ops.aten.mm.default, reduced, reduced)])
    with enable(spfast.SequenceParallelConfig(tp_size=2, tp_rank=0)) as enabled:
        enabled.joint(build.graph)
        assert enabled.joint.result is not None
        enabled.inference(build.graph)
        assert enabled.inference.result is None


def test_the_keys_of_its_parts_do_not_make_a_joint_graph_unknown() -> None:
    build = GraphBuilder(8, False)
    build.output([build.placeholder("tangents_1", (4, 4), torch.float32, "per_rank")])
    with enable(spfast.SequenceParallelConfig(tp_size=2, tp_rank=0)) as enabled:
        # Dynamo numbers compiles anew once it is reset.
        for compile in [
            CompileContext(CompileId(frame_id=0, frame_compile_id=0)) for _ in range(2)
        ]:
            with compile_context(compile):
                enabled.joint.uuid()
                assert enabled.joint.result is not None
                assert "came from a cache" in enabled.joint.result.note
                enabled.joint(build.graph)
                assert not enabled.joint.result.note
                enabled.joint.uuid()  # for the forward's key, and for the backward's
                assert not enabled.joint.result.note
