"""What is right is proved: the peer's results, and edits typed by hand in every dialect."""

from __future__ import annotations

import pytest
import torch
from support.goldens import CASES, load_golden
from torch import fx
from verifier.sites import Site, aten

from bench.peers import hand_edits
from bench.workloads.catalogue import WORKLOADS
from spfast.config import SequenceParallelConfig
from spfast.errors import GraphError, VerificationError
from spfast.testing import copy_graph
from spfast.testing.graphs import seeded_case
from spfast.verifier import Problem, Verification, snapshot, verify


@pytest.mark.parametrize("case", CASES)
def test_the_results_of_the_original_pass_are_proved(case: str) -> None:
    golden = load_golden(case)
    config = SequenceParallelConfig(
        tp_size=golden.tp_size, tp_rank=golden.tp_rank, divisibility="assume"
    )
    found = verify(golden.before, golden.after, config)
    # The original pass leaves what it creates around a functionalised op without a value.
    bare = [node.name for node in golden.after.nodes if node.meta.get("val", 0) is None]
    assert found.problems == tuple(
        Problem(name, "has no meta['val']") for name in bare if name != "output"
    )
    assert bool(bare) == (case == "fp8_custom_op_static_2layer")
    assert found.sharded >= 2 * golden.matched_count


@pytest.mark.parametrize("name", WORKLOADS)
def test_edits_typed_by_hand_are_proved(name: str) -> None:
    workload = WORKLOADS[name]
    graph = workload.build(2)
    before = snapshot(graph)
    assert hand_edits.prepare(workload.setting)(graph) == workload.sites(2)
    for rank in (0, 5):
        config = SequenceParallelConfig(tp_size=8, tp_rank=rank, divisibility="assume")
        found = verify(before, graph, config)
        assert found.problems == ()
        # Two sharded values a site at least; only norm weights and scales are taken on trust.
        assert found.sharded >= 10
        inputs = {node.name for node in graph.nodes if node.op == "placeholder"}
        derived = {"reciprocal"}
        assert all(
            one.value in inputs or one.value.split("_")[0] in derived for one in found.assumptions
        )


@pytest.mark.parametrize("seed", range(30))
def test_a_graph_equals_itself(seed: int) -> None:
    graph = seeded_case(seed).graph
    found = verify(graph, graph)
    assert found.problems == () and found.sharded == 0 and found.nodes == len(graph.nodes)
    assert verify(snapshot(graph), graph).ok


def test_what_is_assumed_is_proved_when_the_inputs_are_named() -> None:
    golden = load_golden("no_first_rank3_static_2layer")
    config = SequenceParallelConfig(tp_size=8, tp_rank=3)
    free = verify(golden.before, golden.after, config)
    same = ("arg0_1", "arg4_1", "arg7_1", "arg10_1", "arg13_1")
    assert tuple(one.value for one in free.assumptions) == same
    assert [str(one) for one in free.assumptions[:2]] == [
        "arg0_1: one rank's rows of it are cut out for 'fused_add_rms_norm_default_3'",
        "arg4_1: is read whole beside one rank's rows in 'fused_add_rms_norm_default_3'",
    ]
    proved = verify(golden.before, golden.after, config, replicated=same)
    assert proved.ok and proved.assumptions == ()
    found = verify(golden.before, golden.after, config, replicated=same[1:])
    assert found.problems == (
        Problem(
            "slice_tensor_3", "meets rows of one rank but is not proved the same on every rank"
        ),
    )


def test_a_guard_proves_divisibility_and_its_absence_does_not() -> None:
    workload = WORKLOADS["functional 2D, dynamic"]
    graph = workload.build(1)
    before = snapshot(graph)
    hand_edits.prepare(workload.setting)(graph)
    config = SequenceParallelConfig(tp_size=8, tp_rank=0)
    found = verify(before, graph, config)
    first = found.problems[0]
    assert first.node == "reduce_scatter_tensor_default"
    assert "is not known to be a multiple of 8" in first.reason
    (size,) = (n.meta["val"] for n in graph.nodes if isinstance(n.meta.get("val"), torch.SymInt))
    assert bool(size % 8 == 0)  # evaluating it adds the guard
    guards = len(size.node.shape_env.guards)
    assert verify(before, graph, config).problems == ()
    assert len(size.node.shape_env.guards) == guards, "the verifier must not add guards"


def test_verdicts_speak_for_themselves() -> None:
    assert Verification().ok and bool(Verification())
    Verification().raise_if_failed()
    bad = Verification((Problem("mm", "needs a full value"),), nodes=3)
    assert not bad and str(bad) == "not proved:\n  mm: needs a full value"
    with pytest.raises(
        VerificationError,
        match="the rewritten graph is not proved equal to the original: mm: needs a full value",
    ):
        bad.raise_if_failed()


def test_graph_modules_are_accepted_and_other_things_refused() -> None:
    module = fx.symbolic_trace(torch.nn.ReLU())
    assert verify(module, module).ok
    with pytest.raises(GraphError, match="list is not a graph: pass an fx.Graph, a Graph"):
        verify(module, [])  # type: ignore[arg-type]


def test_an_operator_that_returns_nothing_has_no_value() -> None:
    site = Site()
    holds = site.call(aten.all.default, site.call(aten.gt.Scalar, site.stream("y"), 0))
    asked = site.graph.call_function(aten._assert_async.default, (holds,))
    total = site.add(site.reduced, 1.0)
    site.output([site.call(aten.neg.default, total)])
    assert "val" not in asked.meta
    assert verify(site.graph, copy_graph(site.graph)).ok
    without = copy_graph(site.graph)
    (node,) = without.find_nodes(op="call_function", target=aten.add.Tensor)
    del node.meta["val"]
    (problem,) = verify(site.graph, without).problems
    assert problem == Problem(node.name, "has no meta['val']")
