"""The command line: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from goldens import load_golden

import spfast
from spfast import demo
from spfast.cli import main

RANKS = ("--tp-size", "8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "graph.spfx"
    spfast.NodeTable.from_graph(load_golden("bf16_static_2layer").before).save(path)
    return path


def test_apply_writes_the_result(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = saved.with_name("after.spfx")
    assert main(["apply", str(saved), *RANKS, "-o", str(out), "--plan"]) == 0
    text = capsys.readouterr().out
    assert "5 sites rewritten" in text and "create %new_0 = vllm.reduce_scatter.default" in text
    targets = [str(node.target) for node in spfast.NodeTable.load(out).to_graph().nodes]
    assert targets.count("vllm.reduce_scatter.default") == 5
    assert "vllm.all_reduce.default" not in targets


def test_apply_as_json(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(saved), *RANKS, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["matched_count"] == 5 and record["skipped"] == []
    assert set(record["timings"]) == {"encode", "match", "plan", "commit", "meta", "total"}


def test_explain(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(saved), *RANKS]) == 0
    text = capsys.readouterr().out
    assert text.startswith("5 all_reduces, 5 rewritten\n")


def test_each_group_has_a_flag(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(saved), "--group", "tp:0=8:3", "--group", "ep=4:0"]) == 0
    assert capsys.readouterr().out.startswith("5 all_reduces, 5 rewritten\n")
    assert main(["apply", str(saved), "--group", "tp:0=1:0"]) == 0
    assert "its group 'tp:0' has one rank" in capsys.readouterr().out


def test_strict_ends_with_one_where_nothing_is_rewritten(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(saved), "--tp-size", "1", "--strict"]) == 1
    assert "its group 'tp:0' has one rank" in capsys.readouterr().out
    assert main(["apply", str(saved), "--tp-size", "1", "--strict"]) == 1
    assert main(["apply", str(saved), *RANKS, "--strict"]) == 0


def test_inspect(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ops"]["vllm.all_reduce.default"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "missing.spfx"], "missing.spfx is not a file"),
        (["apply", "{saved}", "--tp-size", "0"], "tp_size=0 is too small: pass 1 or more"),
        (["apply", "{saved}"], "pass tp_size and tp_rank in the config"),
        (
            ["explain", "{saved}", "--group", "tp:0"],
            "--group tp:0 is not NAME=SIZE:RANK: pass one such as tp=8:0",
        ),
        (
            ["explain", "{saved}", "--group", "tp=8:0", "--group", "tp=8:1"],
            "--group tp=8:1 names a group twice: pass it once",
        ),
        (
            ["explain", "{saved}", "--group", "tp:0=8:8"],
            "groups['tp:0'] has rank 8 of 8: pass a rank from 0 to 7",
        ),
        (["apply", "{saved}", "--tp-size", "8", "-o", "x.pt2"], "pass a name that ends in .spfx"),
        (["apply", "{saved}", "--tp-size", "8", "--divisibility", "hope"], "'hope' is unknown"),
    ],
)
def test_bad_input_ends_with_two(
    arguments: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(saved=saved) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("spfast: error: ") and message in err


def test_demo_measures_what_it_shows() -> None:
    small = demo.Capture("vllm_ir_fp8_custom_2layer.spfx", "two layers", tp_size=8)
    steps: list[float] = []
    (report,) = demo.run(lambda share, what: steps.append(share), captures=(small,)).graphs
    assert report.sites == sum(report.rewritten.values()) == 5
    assert report.collectives["all_reduce"] == (5, 0)
    assert report.collectives["all_gather"] == (0, 5)
    assert report.total > 0 and report.reference > 0
    assert report.bytes_before == 8 * report.bytes_after > 0
    assert steps == sorted(steps)
