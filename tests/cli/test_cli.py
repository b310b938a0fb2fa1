"""The command line: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import logging
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support.goldens import load_golden

import spfast
from spfast.cli import demo, main

RANKS = ("--tp-size", "8")


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
    assert record["rewritten"] == 5 and record["left"] == []
    assert set(record["timings"]) == {"encode", "match", "plan", "commit", "meta", "total"}
    assert len(record["assumptions"]) == 5 and record["note"] == ""


def test_apply_tells_all_that_the_result_does(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = spfast.apply(
        spfast.NodeTable.load(saved).to_graph(), spfast.SequenceParallelConfig(tp_size=8, tp_rank=0)
    )
    assert main(["apply", str(saved), *RANKS]) == 0
    shown, _, times = capsys.readouterr().out.partition("\n  encode ")
    assert shown == f"{saved}: {result}" and "taken to be the same on every rank" in shown
    measured = [float(each) for each in re.findall(r"([\d.]+) ms", times)]
    assert len(measured) == 7 and measured[-1] == pytest.approx(sum(measured[:-1]), abs=0.01)
    # A graph of a level that has no all_reduces to be seen is no graph with nothing to do.
    graph = torch.fx.symbolic_trace(lambda x: torch.nn.functional.relu(x)).graph
    spfast.NodeTable.from_graph(graph).save(tmp_path / "dynamo.spfx")
    assert main(["apply", str(tmp_path / "dynamo.spfx"), *RANKS]) == 0
    assert "dynamo.spfx: note: " in capsys.readouterr().out


def test_explain(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(saved), *RANKS]) == 0
    text = capsys.readouterr().out
    assert text.startswith("5 all_reduces, 5 rewritten, 0 left\n")


@pytest.mark.parametrize("has_rich", [True, False])
def test_a_terminal_gets_colour_where_rich_is_there(
    saved: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    has_rich: bool,
) -> None:
    if has_rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["explain", str(saved), *RANKS]) == 0
    text = capsys.readouterr().out
    assert ("\x1b[32mrewritten" in text) == has_rich
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert plain.startswith("5 all_reduces, 5 rewritten, 0 left\n")
    assert (max(map(len, plain.splitlines())) <= 60) == has_rich


def test_explain_has_a_line_for_each_on_request(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = []
    for more in ([], ["--all"]):
        assert main(["explain", str(saved), *RANKS, *more]) == 0
        lengths.append(len(capsys.readouterr().out.splitlines()))
    assert lengths[0] < lengths[1]


def test_each_group_has_a_flag(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(saved), "--group", "tp:0=8:3", "--group", "ep=4:0"]) == 0
    assert capsys.readouterr().out.startswith("5 all_reduces, 5 rewritten, 0 left\n")
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
        (["inspect", "{other}.spfx"], "not a spfast table: it does not start with SPFX or SPFZ"),
        (["apply", "{other}.pt2", "--tp-size", "8"], "is no exported program: it is no archive"),
        (["report", "{other}.txt", "-o", "x.html"], "is of no kind that is known"),
        (["apply", "{saved}", "--tp-size", "0"], "--tp-size 0 is too small: pass 1 or more"),
        (
            ["apply", "{saved}", "--tp-size", "99999999999999999999"],
            "--tp-size 99999999999999999999 is too large: pass 2147483647 or less",
        ),
        (
            ["apply", "{saved}", "--group", "tp:0=99999999999:0"],
            "the size of --group tp:0=99999999999 is too large: pass 2147483647 or less",
        ),
        (["apply", "{saved}"], "pass --tp-size and --tp-rank, or initialise the group first"),
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
            "--group tp:0 has rank 8 of 8: pass a rank from 0 to 7",
        ),
        (
            ["apply", "{saved}", "--tp-size", "8", "-o", "x.pt2"],
            "-o x.pt2 cannot be written: pass a name that ends in .spfx\n",
        ),
        (
            ["apply", "{other}.pt2", "--tp-size", "8", "-o", "x.txt"],
            "-o x.txt cannot be written: pass a name that ends in .spfx or .pt2\n",
        ),
        (
            ["report", "{saved}", "--tp-size", "8", "-o", "{saved}"],
            "cannot be written: pass a name that ends in .html or .htm\n",
        ),
        (
            ["apply", "{saved}", "--tp-size", "8", "-o", "no/such/folder/x.spfx"],
            "-o no/such/folder/x.spfx cannot be written: there is no folder no/such/folder",
        ),
        (["apply", "{saved}", "--tp-size", "8", "-o", "."], "-o . is a folder"),
        (
            ["report", "-o", "x.html"],
            "report is of FILE or of --run DIR, and got neither: pass one of them",
        ),
        (
            ["report", "{saved}", "--run", ".", "-o", "x.html"],
            "report is of FILE or of --run DIR, and got both: pass one of them",
        ),
        (
            ["report", "--run", "{saved}", "-o", "x.html"],
            "graph.spfx is not a folder: pass one that a run has filled",
        ),
        (
            ["report", "--run", "{saved.parent}", "-o", "x.html"],
            "has no *.drawing.json: run the model with SPFAST_DEBUG_DUMP=",
        ),
    ],
)
def test_bad_input_ends_with_two(
    arguments: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = saved.with_name("other")
    for suffix in (".spfx", ".pt2", ".txt"):
        other.with_suffix(suffix).write_text("nothing of the kind")
    assert main([argument.format(saved=saved, other=other) for argument in arguments]) == 2
    assert not {*saved.parent.iterdir()} - {saved, *saved.parent.glob("other.*")}
    err = capsys.readouterr().err
    assert err.startswith("spfast: error: ") and message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["apply", "x.spfx", "--divisibility", "hope"], "--divisibility: invalid choice: 'hope'"),
        (["explain", "x.spfx", "--recognise", "all"], "--recognise: invalid choice: 'all'"),
        (["explain", "x.spfx", "--tp-size", "eight"], "--tp-size: invalid int value: 'eight'"),
        (["explain", "x.spfx", "--tp-size", "1.5"], "--tp-size: invalid int value: '1.5'"),
        (["report", "x.spfx", "-o", ""], "-o/--output: expected a path, got ''"),
        (["inspect", ""], "FILE: expected a path, got ''"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_what_the_parser_refuses_ends_with_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"spfast: error: {message}") and err.count("\n") == 1
    assert re.search(r" \(see spfast( \w+)? --help\)$", err)


_COMMANDS = {
    "demo": [],
    "bench": [],
    "apply": ["x.spfx"],
    "explain": ["x.spfx"],
    "report": ["x.spfx", "-o", "x.html"],
    "inspect": ["x.spfx"],
    "doctor": [],
    "completion": ["bash"],
}


@pytest.mark.parametrize("name", [*_COMMANDS, ""])
def test_an_unknown_argument_points_to_the_help_of_its_command(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not name:  # before any command
        assert main(["--no-such", "doctor"]) == 2
        told = "spfast: error: unrecognized arguments: --no-such (see spfast --help)\n"
    else:
        assert main([name, *_COMMANDS[name], "--no-such=8"]) == 2
        told = f"spfast: error: unrecognized arguments: --no-such=8 (see spfast {name} --help)\n"
    assert capsys.readouterr().err == told


def test_every_command_is_asked_for_an_unknown_argument(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    told = re.findall(r"^    (\w+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(told) == sorted(_COMMANDS)


@pytest.mark.parametrize(("kept", "reason"), [(20, "not a ZIP archive"), (None, '"version"')])
def test_a_damaged_program_is_refused_in_one_line(
    kept: int | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """torch logs a traceback, and then raises an error that only points to it."""
    path = tmp_path / "program.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "nothing of the kind")
    path.write_bytes(path.read_bytes()[:kept])
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    assert main(["inspect", str(path)]) == 2
    said = f"spfast: error: {path} is no exported program that torch {torch.__version__} can read ("
    err = capsys.readouterr().err
    assert err.startswith(said) and reason in err and err.count("\n") == 1
    assert not [each for each in caplog.records if each.name == "torch.export"]


def test_what_torch_says_of_a_program_that_it_reads_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    load = torch.export.load

    def outspoken(*args: Any) -> Any:
        logging.getLogger("torch.export").warning("an older format")
        return load(*args)

    monkeypatch.setattr(torch.export, "load", outspoken)
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    assert main(["inspect", str(path)]) == 0
    assert [each.message for each in caplog.records if each.name == "torch.export"] == [
        "an older format"
    ]


@pytest.mark.parametrize(
    "held",
    [
        b"{",
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"before": {}, "after": {}, "sites": [["all_reduce"]]}',
    ],
)
def test_what_a_run_left_and_is_no_drawing(
    held: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.drawing.json").write_bytes(held)
    page = tmp_path / "page.html"
    assert main(["report", "--run", str(tmp_path), "-o", str(page)]) == 2
    err = capsys.readouterr().err
    said = f"spfast: error: {tmp_path}/a.drawing.json: this is no drawing that spfast wrote ("
    assert err.startswith(said) and err.count("\n") == 1 and not page.exists()


def test_torch_is_loaded_by_what_needs_it() -> None:
    """It takes seconds, in which --help would be waited for and Ctrl-C not understood."""
    script = (
        "import sys\n"
        "from spfast.cli import main\n"
        "assert main(['--version']) == 0 and main(['apply', '--help']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"spfast {spfast.__version__} (torch {torch.__version__}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    versions = (spfast.__version__, torch.__version__, platform.python_version())
    assert capsys.readouterr().out == "spfast {} (torch {}, Python {})\n".format(*versions)


def test_doctor_without_a_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["torch"] == torch.__version__ and record["spfast"] == spfast.__version__


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_choices(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("explain", "--tp-size", "rowwise", "report"))


def test_completion_says_what_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'spfast[completion]'" in capsys.readouterr().err


def test_a_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, debug_dump=str(tmp_path / "run"))
    for _ in range(2):
        spfast.SequenceParallelismPass(config)(load_golden("bf16_static_2layer").before)
    out = tmp_path / "page.html"
    assert main(["report", "--run", str(tmp_path / "run"), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 10 of 10 all_reduces rewritten\n"
    assert "<title>run</title>" in out.read_text("utf-8")


def test_demo_measures_what_it_shows() -> None:
    small = demo.Capture("vllm_ir_fp8_custom_2layer.spfx", "two layers", tp_size=8)
    steps: list[float] = []
    (report,) = demo.run(lambda share, what: steps.append(share), captures=(small,)).graphs
    assert report.sites == sum(report.rewritten.values()) == 5
    assert report.collectives["all_reduce"] == (5, 0)
    assert report.collectives["all_gather"] == (0, 5)
    assert report.total > 0 and report.reference > 0
    assert sum(report.stages.values()) == pytest.approx(report.total)
    assert report.bytes_before == 8 * report.bytes_after > 0
    # What lives at once is less than all there is, and some of it stays whole.
    assert report.peak_after < report.peak_before < 8 * report.peak_after
    assert steps == sorted(steps)
