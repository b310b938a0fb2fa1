"""Every Python block of the documentation runs, in order, and prints what the page says."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from docs.markdown import PAGES, ROOT, Block, blocks, commands
from torch.testing._internal.distributed.fake_pg import FakeStore

import spfast
from spfast import cli, pattern_matcher
from spfast.integrations import inductor
from spfast.patterns import default_registry
from spfast.testing import assumptions, rendezvous
from spfast.testing.builder import TOKENS, GraphBuilder

# (page, first words of the block): why it cannot run here. Empty, and better so.
NOT_RUN: dict[tuple[str, str], str] = {}


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Eight ranks of which this is the first, a vLLM that has the pass, a folder to write to."""
    monkeypatch.chdir(tmp_path)
    version = types.ModuleType("vllm.version")
    version.__version__ = "0.31.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, version.__name__, version)
    monkeypatch.setenv("SPFAST_VLLM_INSTALL", "0")  # so that it is taken back
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(assumptions, "Rendezvous", _alone)
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    try:
        with (
            default_registry().temporary(),
            torch._inductor.config.patch(post_grad_custom_pre_pass=None),
            inductor.patched(),  # so that what a page installs is taken back
        ):
            yield
    finally:
        dist.destroy_process_group()


def _alone(
    store: Any, name: str, rank: int, ranks: Sequence[int], timeout: float
) -> rendezvous.Rendezvous:
    """The seven other ranks will never come."""
    return rendezvous.Rendezvous(dist.HashStore(), name, rank, [rank], timeout)


def _names() -> dict[str, Any]:
    """What the pages take as given."""
    build = GraphBuilder(tokens=16, dynamic=True)
    x = build.placeholder("x", (TOKENS, 32), torch.bfloat16)
    residual = build.placeholder("residual", (TOKENS, 32), torch.bfloat16)
    weight = build.placeholder("weight", (32,), torch.bfloat16)
    group = dist.group.WORLD.group_name
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, group)
    both = build.call(torch.ops.vllm_ir.fused_add_rms_norm.default, reduced, residual, weight, 1e-5)
    item = sys.modules["_operator"].getitem
    build.output([build.call(item, both, 0), build.call(item, both, 1)])
    model = torch.nn.Linear(2, 2)
    batch = torch.ones(4, 2)
    return {"__name__": "page", "graph": build.graph, "model": model, "batch": batch, "x": x}


def _run(page: Path, block: Block, names: dict[str, Any]) -> str:
    # As many lines stand before it as in the page, so that a traceback names the right one.
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, surroundings: None) -> None:
    names = _names()
    # An older torch's matcher replaces in its own way, which that page's last lines count.
    says_the_same = torch.__version__ >= "2.13" or page.name != "pattern-matcher.md"
    for block in blocks(page):
        known = (str(page.relative_to(ROOT)), block.text.split("\n")[0])
        if block.language != "python" or known in NOT_RUN:
            continue
        printed = _run(page, block, names)
        if block.output is not None and says_the_same:
            assert printed == block.output, f"{page}:{block.line}"


def test_commands_of_the_readme_run(surroundings: None, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "README.md"
    names = _names()
    for block in blocks(page):
        if block.language == "python":
            _run(page, block, names)
    called = commands(page, "spfast")
    assert len(called) >= 3
    # The graph that the page has saved was rewritten already: there is nothing to find in it.
    for command in called:
        assert cli.main(shlex.split(command)[1:]) == cli.DONE, command
    assert "all_reduces" in capsys.readouterr().out


def test_a_block_that_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Words\n\n```python\nprint(1)\n\nassert False\n```\n\n```text\n1\n```\n")
    (block,) = blocks(page)
    assert block.output == "1\n"
    with pytest.raises(AssertionError) as error:
        _run(page, block, {})
    assert error.traceback[-1].lineno + 1 == 6


def test_links_lead_somewhere() -> None:
    missing = []
    for page in PAGES:
        for part in page.read_text().split("](")[1:]:
            target, _, anchor = part.split(")")[0].partition("#")
            if target.startswith(("http:", "https:")):
                continue
            found = page.parent / target if target else page
            if not found.exists():
                missing.append(f"{page.name}: {target}")
            elif anchor and anchor not in _anchors(found):
                missing.append(f"{page.name}: {target}#{anchor}")
    assert not missing


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = [each.rpartition(".") for each in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    for module, _, name in listed:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    names = {name for _, _, name in listed}
    assert {*spfast.__all__} - {*spfast.errors.__all__} - names == {"__version__"}
    assert "errors" in names  # with all that it holds


def test_programs_that_are_shown_are_included() -> None:
    """A formatter of code takes the line for code where its fence says Python."""
    lines = [
        line
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith(("--8", "-8")) or "8<" in line
    ]
    shown = [re.fullmatch(r'--8<-- "(.+)"', line) for line in lines]
    assert len(shown) >= 3 and all(each and (ROOT / each[1]).is_file() for each in shown), lines


def test_files_that_are_named_exist() -> None:
    """A path in backticks is one from the root, or from the package."""
    pattern = re.compile(r"`((?:[\w.]+/)+[\w.]*)`")
    missing = []
    for page in PAGES:
        for path in pattern.findall(page.read_text()):
            homes = (ROOT, ROOT / "python" / "spfast", page.parent)
            if not any((home / path).exists() for home in homes):
                missing.append(f"{page.name}: {path}")
    assert not missing


def _anchors(page: Path) -> set[str]:
    titles = [line.lstrip("#").strip() for line in page.read_text().splitlines() if line[:1] == "#"]
    kept = ("".join(c for c in title.lower() if c.isalnum() or c in " -_") for title in titles)
    return {title.replace(" ", "-") for title in kept}


def test_pattern_matcher_is_a_drop_in() -> None:
    import torch._inductor.pattern_matcher as stock

    assert {"register_replacement", "PatternMatcherPass", "fwd_only"} <= set(dir(pattern_matcher))
    assert issubclass(pattern_matcher.PatternMatcherPass, stock.PatternMatcherPass)
