"""The fusion passes of the benchmark, on small graphs: both matchers make the same of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pattern_matcher.harness import agree

from bench.passes import run
from bench.passes.fusion import Fusion
from bench.passes.table import FUSIONS

both = pytest.mark.parametrize("tokens", [4096, None], ids=["static", "dynamic"])


def test_there_are_enough_of_them() -> None:
    assert len(FUSIONS) >= 12


@both
@pytest.mark.parametrize("name", FUSIONS)
def test_two_layers(name: str, tokens: int | None) -> None:
    fusion = FUSIONS[name]
    agree(
        lambda pm: fusion.register(pm, 2),
        lambda: fusion.build(2, tokens),
        count=2 * fusion.sites,
        sort=True,
    )


@pytest.mark.parametrize("name", [n for n in FUSIONS if "norm" in n])
def test_another_epsilon_is_not_fused(name: str) -> None:
    fusion = FUSIONS[name]

    def build() -> Any:
        gm = fusion.build(1, 4096)
        for node in gm.graph.nodes:
            if "epsilon" in node.kwargs:
                node.kwargs = {**node.kwargs, "epsilon": 3e-5}
        return gm

    agree(lambda pm: fusion.register(pm, 1), build, count=0)


def test_the_check_of_the_benchmark_refuses_other_graphs(monkeypatch: Any) -> None:
    fusion = FUSIONS["all_gather + GEMM"]
    assert run.measure(fusion, 2, 4096, 1)["torch"].first.median > 0
    register = Fusion.register

    def spoilt(self: Fusion, pm: Any, layers: int) -> Any:
        matcher = register(self, pm, layers)
        apply = matcher.apply

        def applied(gm: Any) -> int:
            count = apply(gm)
            if pm is run.our_matcher:
                node = next(n for n in gm.graph.nodes if n.op == "call_function")
                node.args = (node.args[0], *node.args[1:-1], "another group")
            return int(count)

        matcher.apply = applied
        return matcher

    monkeypatch.setattr(Fusion, "register", spoilt)
    with pytest.raises(AssertionError, match="made different graphs"):
        run.measure(fusion, 2, 4096, 1)


def test_the_benchmark_writes_its_table(tmp_path: Path, capsys: Any) -> None:
    options = ["--layers", "2", "--rounds", "2", "--only", "GEMM + reduce", "--out", str(tmp_path)]
    assert run.main(options) == 0
    data = json.loads((tmp_path / "passes.json").read_text())
    assert [row["mode"] for row in data["rows"]] == ["static", "dynamic"]
    # How much it is depends on the machine and on what else runs there.
    assert data["sums"]["dynamic"]["pass_ratio"] > 0
    assert "**sum**" in (tmp_path / "passes.md").read_text()
    assert "GEMM + reduce_scatter" in capsys.readouterr().out


def test_an_unknown_pass_is_named() -> None:
    with pytest.raises(SystemExit):
        run.main(["--only", "no such pass"])
