"""The benchmark measures what it says: contenders are compared, and differences found."""

from __future__ import annotations

import json

import pytest
import torch

import spfast
from bench import experiments, growth, harness, report
from bench.agreement import assert_agreement
from bench.contenders import HAND, SPFAST, contenders
from bench.equal import Different
from bench.instruction_counts import _judge
from bench.workloads.catalogue import WORKLOADS
from spfast.cli import bench

WORKLOAD = WORKLOADS["vLLM IR bf16, static"]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_spfast_makes_what_the_edits_by_hand_make(name: str) -> None:
    workload = WORKLOADS[name]
    assert_agreement(workload, contenders(workload, (SPFAST, HAND)), 2)


def test_a_contender_that_makes_another_graph_is_found() -> None:
    honest = contenders(WORKLOAD, (HAND,))[0]

    def cheat(graph: torch.fx.Graph) -> int:
        sites = honest.run(graph)
        node = graph.find_nodes(
            op="call_function", target=torch.ops.vllm_ir.fused_add_rms_norm.default
        )[-1]
        node.update_arg(3, 1e-6)
        return sites

    with pytest.raises(Different, match="cheat and honest|honest and cheat"):
        assert_agreement(
            WORKLOAD,
            [harness.Contender("honest", honest.run), harness.Contender("cheat", cheat)],
            2,
        )


def test_a_contender_that_misses_a_site_is_found() -> None:
    lazy = harness.Contender("lazy", lambda graph: 0)
    with pytest.raises(AssertionError, match="lazy found 0 sites, not 5"):
        assert_agreement(WORKLOAD, [lazy], 2)


def test_growth_exponent() -> None:
    assert harness.growth_exponent([1, 10, 100], [2, 20, 200]) == pytest.approx(1.0)
    assert harness.growth_exponent([1, 10, 100], [1, 100, 10000]) == pytest.approx(2.0)


def test_the_growth_of_the_analysis_is_measured() -> None:
    small, large = growth.nodes((200, 400), print, repeats=1)["points"]
    assert small["nodes"] < large["nodes"]
    assert all(large["stages_s"][stage] > 0 for stage in ("encode", "match", "plan"))


def test_noise() -> None:
    assert not harness.is_noisy([1.0, 1.01, 1.02, 1.0, 0.99, 1.0, 1.5])
    assert harness.is_noisy([1.0, 1.4, 1.8, 1.0, 2.0, 1.1, 1.5])


def test_the_instruction_gate(capsys: pytest.CaptureFixture[str]) -> None:
    here = {"compiler": "c 1", "python": "3", "torch": "2"}
    assert _judge({"match": 104}, {"match": 100}, here, here) == 0
    assert _judge({"match": 106}, {"match": 100}, here, here) == 1
    assert "WORSE" in capsys.readouterr().out
    assert _judge({"match": 300}, {"match": 100}, here, {**here, "compiler": "c 2"}) == 0
    assert "SKIPPED" in capsys.readouterr().out
    # Encode's count depends on Python and torch, too; match's does not.
    assert _judge({"match": 106}, {"match": 100}, here, {**here, "python": "4"}) == 1
    assert _judge({"encode": 106}, {"encode": 100}, here, {**here, "python": "4"}) == 0


def test_quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    # An installed package has the suite inside; a checkout, beside.
    quick = bench._suite("quick")
    few = {WORKLOAD.name: quick.WORKLOADS[WORKLOAD.name]}
    monkeypatch.setattr(quick, "WORKLOADS", few)
    monkeypatch.setattr(quick, "TIMED", tuple(few))
    monkeypatch.setattr(quick, "LAYERS", 3)
    monkeypatch.setattr(quick, "FEW", 2)
    record = json.loads(bench.run(quick=True, json=True))
    assert record["agreement"][WORKLOAD.name] == ["spfast", "edits by hand", "PatternMatcherPass"]
    assert record["times"][WORKLOAD.name]["3"]["sites"] == 7
    assert "PatternMatcherPass" in bench.run(quick=True)


def test_a_target_that_was_not_run_says_so() -> None:
    row = {"times_spfast": {"edits by hand": 1.0}}
    record = {"comparison": {"vLLM IR bf16, static": row}}
    assert report._times(record, "static", "vLLM's own pass") == "not run"


def test_the_cost_of_a_proof_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "WORKLOADS", {WORKLOAD.name: WORKLOAD})
    record = {"proofs": experiments.proofs(experiments.Scale(layers=3, repeats=2), lambda _: None)}
    rows = record["proofs"][WORKLOAD.name]
    assert list(rows) == ["2", "3"]
    assert all(row["proved_s"] > row["pass_s"] > 0 for row in rows.values())
    assert rows["3"]["proof"] == pytest.approx(rows["3"]["proved_s"] / rows["3"]["pass_s"] - 1)
    rows["2"] = {"pass_s": 0.001, "proved_s": 0.0041, "proof": 3.1, "noisy": False}
    rows["3"] = {"pass_s": 0.002, "proved_s": 0.0062, "proof": 2.1, "noisy": True}
    assert report._worst_proof(record) == f"3.1x ({WORKLOAD.name}, 2 layers)"
    assert list(report._proofs(record))[-1] == (
        f"| {WORKLOAD.name} | 1.0, 4.1 (3.1x) | 2.0, 6.2 (2.1x) (noisy) |"
    )


class _Captured(Exception):
    """Ends a compilation once its graph was recorded."""


def traced_graph() -> torch.fx.Graph:
    """What torch.compile hands to a post-grad pass, for a model with all kinds of nodes."""
    import torch._inductor.config as inductor_config

    class Gated(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate, up = torch.split(x * 2, 8, 1)
            return torch.nn.functional.silu(gate) * up

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gated = Gated()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gated(x)  # type: ignore[no-any-return]

    graphs: list[torch.fx.Graph] = []

    def record(graph: torch.fx.Graph) -> None:
        graphs.append(graph)
        raise _Captured

    patches = {"post_grad_custom_pre_pass": record, "fx_graph_cache": False}
    torch._dynamo.reset()
    with (
        inductor_config.patch(patches),
        torch.no_grad(),
        pytest.raises(Exception, match="_Captured"),
    ):
        torch.compile(Model(), fullgraph=True, dynamic=True)(torch.randn(4, 16))
    return graphs[0]


def test_a_node_takes_few_bytes_in_a_table() -> None:
    graph = WORKLOADS["vLLM IR bf16, static"].fresh(40)
    table = spfast.NodeTable.from_graph(graph)
    assert table.memory_bytes() / len(graph.nodes) <= 96


def keys_by_kind(graph: torch.fx.Graph) -> dict[str, set[str]]:
    """The keys that all nodes of a kind have, with the types that say what kind of value it is."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        val = node.meta.get("val")
        if node.op == "call_function" and isinstance(val, torch.SymInt):
            continue  # arithmetic of sizes: the small model has none
        kind = f"{node.op} {'tuple' if isinstance(val, (tuple, list)) else type(val).__name__}"
        keys = {str(key) for key in node.meta}
        found[kind] = found[kind] & keys if kind in found else keys
    return found


def test_the_graphs_have_the_meta_that_tracing_leaves() -> None:
    traced = keys_by_kind(traced_graph())
    assert len(traced) == 5
    for workload in ("vLLM IR FP8 op, dynamic", "functional 3D, dynamic"):
        ours = keys_by_kind(WORKLOADS[workload].fresh(2))
        for kind, keys in ours.items():
            # Older torch notes less; the keys that matter are there from the first.
            assert keys >= traced[kind], (workload, kind)
            assert {"val", "tensor_meta"} & keys == {"val", "tensor_meta"} & traced[kind]
            if torch.__version__ >= "2.13":
                assert keys == traced[kind], (workload, kind)
        assert len(ours) >= 4
    one = WORKLOADS["vLLM IR bf16, dynamic"]
    modes = {next(iter(one.fresh(1).nodes)).meta["val"].node.shape_env for _ in range(2)}
    assert len(modes) == 2  # a ShapeEnv a graph
