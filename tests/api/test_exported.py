"""Exported programs: they are rewritten in place, and save, load and run by their signature."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed._functional_collectives as collectives

import spfast
from spfast import cli, verifier
from spfast.api import preview
from spfast.base.files import replaced
from spfast.testing.gloo import run_ranks

GROUP = "0"


class Layer(torch.nn.Module):
    """A norm of a sum over the ranks; a second value is returned as it is, and a buffer changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 64))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> dict[str, torch.Tensor]:
        reduced = torch.ops._c10d_functional.all_reduce(x, "sum", GROUP)
        stream = residual + torch.ops._c10d_functional.wait_tensor(reduced)
        norm = stream * torch.rsqrt(stream.pow(2).mean(-1, keepdim=True) + 1e-6)
        self.calls.add_(1)
        return {"norm": norm * self.weight, "other": x * 2}


def export(tokens: int = 16, **given: Any) -> torch.export.ExportedProgram:
    assert collectives is not None  # registers the operators
    inputs = (torch.ones(tokens, 64), torch.ones(tokens, 64))
    return torch.export.export(Layer(), inputs, **given)


def config(**given: Any) -> spfast.SequenceParallelConfig:
    return spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, recognise="rowwise", **given)


def names(program: torch.export.ExportedProgram) -> list[str]:
    return [node.name for node in program.graph.nodes]


def targets(program: torch.export.ExportedProgram) -> str:
    return " ".join(str(node.target) for node in program.graph.nodes)


def through_a_file(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def test_the_program_is_returned_and_keeps_its_signature() -> None:
    program = export()
    signature, returned = str(program.graph_signature), program.graph_signature.user_outputs
    assert spfast.apply(program, config()) is program
    assert "reduce_scatter" in targets(program) and "all_reduce" not in targets(program)
    assert str(program.graph_signature) == signature
    program.validate()
    loaded = through_a_file(program)
    assert loaded.graph_signature.user_outputs == returned
    assert "reduce_scatter" in targets(loaded)
    assert "reduce_scatter" in program.graph_module.code


def test_its_module_or_graph_does_as_well() -> None:
    for part in ("graph_module", "graph"):
        program = through_a_file(export())
        assert int(spfast.apply(getattr(program, part), config())) == 1
        program.validate()
        assert "reduce_scatter" in targets(through_a_file(program))


def test_explain_and_tables_take_programs() -> None:
    program = export()
    before = names(program)
    assert str(spfast.explain(program, config())).startswith("1 all_reduces, 1 rewritten")
    assert len(spfast.NodeTable.from_graph(program)) == len(before)
    assert names(program) == before


def test_names_are_as_they_were_where_the_proof_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    program = export()
    before, spaces = names(program), program.graph._graph_namespace
    used, counts = set(spaces._used_names), dict(spaces._base_count)
    listed = [spaces._obj_to_name[node] for node in program.graph.nodes]

    def fail(*_: object) -> None:
        assert "mul_1_local" in names(program)
        raise spfast.VerificationError("no")

    monkeypatch.setattr(verifier, "verify", fail)
    with pytest.raises(spfast.VerificationError):
        spfast.apply(program, config(validate=True))
    assert names(program) == before
    assert spaces._used_names == used and spaces._base_count == counts
    assert [spaces._obj_to_name[node] for node in program.graph.nodes] == listed


def test_no_rewrite_rests_on_a_guard() -> None:
    tokens = torch.export.Dim("tokens", min=2, max=1024)
    left = export(dynamic_shapes=({0: tokens}, {0: tokens}))
    reason = spfast.apply(left.graph_module, config()).skipped[0].reason
    assert reason.endswith('are not proved to be divisible by tp_size 4 (divisibility="prove")')
    shown = {str(node.target) for node in preview(left, config()).nodes}
    assert "_c10d_functional.all_reduce.default" in shown
    known = export(dynamic_shapes=({0: 8 * tokens}, {0: 8 * tokens}))
    assert int(spfast.apply(known.graph_module, config())) == 1
    assert "reduce_scatter" in targets(through_a_file(known))


def rewrite_and_run(rank: int, world_size: int) -> float:
    torch.manual_seed(rank)
    x = torch.randn(16, 64)
    residual = torch.linspace(-1, 1, 16 * 64).view(16, 64)
    program = export()
    want = program.module()(x, residual)
    found = spfast.SequenceParallelConfig(recognise="rowwise")
    loaded = through_a_file(spfast.apply(program, found))
    assert "reduce_scatter" in targets(loaded)
    got = loaded.module()(x, residual)
    assert got.keys() == want.keys()
    return max(float((got[name] - want[name]).abs().max()) for name in want)


def test_a_loaded_program_gives_what_it_gave_on_real_ranks() -> None:
    assert max(run_ranks(rewrite_and_run, 2)) < 1e-5


def test_the_command_line_writes_a_program_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.pt2", tmp_path / "b.pt2"
    torch.export.save(export(), source)
    assert cli.main(["apply", str(source), "--tp-size", "4", "-o", str(out)]) == 0
    assert "1 sites rewritten" in capsys.readouterr().out
    assert "reduce_scatter" in targets(torch.export.load(out))


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.pt2"
    torch.export.save(export(), source)
    before = source.read_bytes()

    def half(program: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch.export, "save", half)
    assert cli.main(["apply", str(source), "--tp-size", "4", "-o", str(source)]) != 0
    assert source.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.pt2"]


def test_what_stands_there_keeps_its_mode_and_its_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with replaced(link) as scratch:
        scratch.write_text("new")
        assert real.read_text() == "old"
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640
