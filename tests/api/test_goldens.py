"""The five recorded runs of a peer's pass: same sites, same live operators, same wiring."""

from __future__ import annotations

import pytest
import torch
from support.goldens import CASES, Golden, load_golden, op_counts, wiring

import spfast


def rewrite(
    golden: Golden, gather_quantized: bool = True, recognise: spfast.config.Recognise = "patterns"
) -> spfast.Result:
    config = spfast.SequenceParallelConfig(
        tp_size=golden.tp_size,
        tp_rank=golden.tp_rank,
        divisibility="assume",
        gather_quantized=gather_quantized,
        recognise=recognise,
    )
    return spfast.apply(golden.before, config)


@pytest.mark.parametrize("case", CASES)
def test_as_many_sites_as_recorded(case: str) -> None:
    golden = load_golden(case)
    result = rewrite(golden)
    assert int(result) == golden.matched_count
    assert result.skipped == ()


@pytest.mark.parametrize("case", CASES)
def test_same_operators(case: str) -> None:
    golden = load_golden(case)
    rewrite(golden)
    ours, theirs = op_counts(golden.before), op_counts(golden.after)
    # How a size is computed is not part of what the graph does.
    sizes = {"aten.sym_size.int", "<built-in function mul>", "<built-in function floordiv>"}
    assert {k: v for k, v in ours.items() if k not in sizes} == {
        k: v for k, v in theirs.items() if k not in sizes
    }


@pytest.mark.parametrize("recognise", ["patterns", "rowwise", "both"])
@pytest.mark.parametrize("case", [case for case in CASES if "dynamic" not in case])
def test_same_wiring(case: str, recognise: spfast.config.Recognise) -> None:
    golden = load_golden(case)
    # The peer gathered before each quantisation.
    rewrite(golden, gather_quantized=False, recognise=recognise)
    assert wiring(golden.before) == wiring(golden.after)


def test_dynamic_rewrite_leaves_no_dead_size_arithmetic() -> None:
    golden = load_golden("bf16_dynamic_2layer")
    rewrite(golden)
    dead = [
        node
        for node in golden.before.nodes
        if not node.users and node.op == "call_function" and "getitem" not in str(node.target)
    ]
    assert dead == []


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("fp8")])
def test_quantised_values_are_gathered(case: str) -> None:
    golden = load_golden(case)
    result = rewrite(golden)
    assert dict(result.by_pattern) == {
        "first_all_reduce_rms_norm_static_fp8": 1,
        "middle_all_reduce_rms_norm_static_fp8": 3,
        "middle_all_reduce_rms_norm": 1,
    }
    gathers = golden.before.find_nodes(op="call_function", target=torch.ops.vllm.all_gather.default)
    dtypes = [node.meta["val"].dtype for node in gathers]
    assert dtypes == [torch.float8_e4m3fn] * 4 + [torch.bfloat16]


def test_residual_rows_are_those_of_the_rank() -> None:
    golden = load_golden("no_first_rank3_static_2layer")
    rewrite(golden)
    (rows,) = golden.before.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)
    assert rows.args[1:] == (0, 1536, 2048)


@pytest.mark.parametrize("case", CASES)
def test_values_are_what_fake_tensors_compute(case: str) -> None:
    golden = load_golden(case)
    before = {node: node.meta["val"] for node in golden.before.nodes if "val" in node.meta}
    rewrite(golden)
    checked = 0
    for node in golden.before.nodes:
        recorded = node.meta.get("val")
        if before.get(node) is recorded:
            continue  # not touched by the rewrite
        if node.op != "call_function" or not isinstance(recorded, torch.Tensor):
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with recorded.fake_mode:  # type: ignore[attr-defined]
            computed = node.target(*args, **kwargs)
        for what in ("shape", "dtype", "device"):
            assert str(getattr(recorded, what)) == str(getattr(computed, what)), node
        assert str(recorded.stride()) == str(computed.stride()), node
        checked += 1
    assert checked > 10
