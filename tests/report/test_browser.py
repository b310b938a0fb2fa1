"""The page in a browser: it draws, its choices work, and it is the same in the dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from support.goldens import load_golden
from torch import fx

import spfast
from spfast.cli import main

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")

# Of these machines many have neither a screen nor a network.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1100",
    "--virtual-time-budget=4000",
    "--dump-dom",
)


def _open(page: Path, fragment: str, folder: Path) -> str:
    """The document as it stands once its scripts have run, without the data and the scripts."""
    assert BROWSER is not None
    ended = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder}", f"{page.as_uri()}#{fragment}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return re.sub(r"<script.*?</script>", "", ended.stdout, flags=re.DOTALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a bundled model of 80 layers."""
    from importlib import resources

    target = tmp_path_factory.mktemp("report") / "page.html"
    with resources.as_file(resources.files("spfast") / "data") as data:
        file = data / "vllm_ir_fp8_custom_80layer.spfx"
        assert main(["report", str(file), "--tp-size", "8", "-o", str(target)]) == 0
    return target


def test_a_model_of_80_layers_is_drawn(whole: Path, tmp_path: Path) -> None:
    shown = _open(whole, "layer=40&theme=dark", tmp_path)
    assert 'data-ready="1"' in shown and 'data-theme="dark"' in shown
    assert "161 → 0" in shown and "0 → 161" in shown
    assert 'data-layer="40" title="sites rewritten / all_reduces" aria-current="true"' in shown
    assert shown.count("<canvas") >= 2  # one picture on each side at least
    assert shown.count('class="rewritten"') == 161 and 'class="left"' not in shown
    assert shown.count('class="bar"') == 161 + 322


def test_a_node_is_found_and_told_of(whole: Path, tmp_path: Path) -> None:
    shown = _open(whole, "node=all_reduce_default_3&search=all_reduce_default_3", tmp_path)
    assert "before: %all_reduce_default_3 " in shown
    detail = re.search(r'<div id="detail">(.*?)</div>', shown, flags=re.DOTALL)
    assert detail is not None and "rewritten by middle_all_reduce_rms_norm" in detail[1]
    # Of the table those rows stay that have the text.
    rows = re.findall(r'<tr class="rewritten"( hidden="")?><td>%([^<]+)', shown)
    assert {name for hidden, name in rows if not hidden} == {
        name for _, name in rows if "all_reduce_default_3" in name
    }


def test_a_site_that_stays_shows_why(tmp_path: Path) -> None:
    table = tmp_path / "graph.spfx"
    spfast.NodeTable.from_graph(load_golden("bf16_static_2layer").before).save(table)
    target = tmp_path / "page.html"
    assert main(["report", str(table), "--group", "tp:0=1:0", "-o", str(target)]) == 0
    shown = _open(target, "theme=light", tmp_path / "profile")
    assert 'data-theme="light"' in shown
    assert shown.count('class="left"') == 5 and "has one rank" in shown


def test_parts_are_counted_where_the_graph_names_no_modules(whole: Path, tmp_path: Path) -> None:
    shown = _open(whole, "", tmp_path / "profile")
    assert '<small id="unnamed">The graph does not say which modules' in shown
    graph = load_golden("bf16_static_2layer").before
    for node in graph.nodes:
        node.meta["nn_module_stack"] = {"a": ("model.layers.7", torch.nn.Module)}
    shown = _open(_page(graph, tmp_path), "", tmp_path / "profile")
    assert '<small id="unnamed" hidden="">' in shown and ">model.layers.7<" in shown


# Appended to a page: says which texts the browser draws beyond their boxes, and how many it draws.
MEASURE = """<script>
const beyond = [];
let drawnTexts = 0;
for (const side of ["before", "after"]) drawn[side].nodes().forEach((node) => {
  const box = node.boundingBox({ includeLabels: false, includeOverlays: false });
  const text = node.boundingBox({ includeNodes: false, includeOverlays: false });
  const slope = node.style("shape") === "hexagon" ? 0.5 * text.h / box.h : 0;
  drawnTexts += text.w > 20;
  if (text.w / box.w + slope > 1 || text.h > box.h) beyond.push(node.data("text"));
});
document.documentElement.dataset.beyond = JSON.stringify([drawnTexts, beyond.length]);
</script>"""


def test_a_box_holds_its_text(whole: Path, tmp_path: Path) -> None:
    library = torch.library.Library("a_library_with_quite_a_long_name", "FRAGMENT")
    long = "_of_a_library_whose_operators_have_names_for_every_kind_of_attention"
    names = ("attention" + long, "all_reduce" + long, "x" * 90)
    graph = fx.Graph()
    value = graph.placeholder("x")
    for name in names:
        library.define(f"{name}(Tensor x) -> Tensor")
        operator = getattr(torch.ops.a_library_with_quite_a_long_name, name).default
        value = graph.call_function(operator, (value,))
        value.meta["val"] = torch.empty((4,) * 20, device="meta")
    graph.output((value,))
    cases = [(_page(graph, tmp_path), f"layer={layer}&expand=1", 3 - layer) for layer in (0, 1)]
    for page, fragment, least in [
        *cases,
        (whole, "layer=40", 12),
        (whole, "layer=40&expand=1", 24),
    ]:
        measured = tmp_path / "measured.html"
        measured.write_text(page.read_text("utf-8") + MEASURE, "utf-8")
        shown = _open(measured, fragment, tmp_path / "profile")
        found = re.search(r'data-beyond="\[(\d+),(\d+)\]"', shown)
        assert found is not None
        assert int(found[1]) >= 2 * least and int(found[2]) == 0, fragment


def _page(graph: fx.Graph, folder: Path) -> Path:
    target = folder / "page.html"
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0)
    spfast.apply(graph, config, record_plan=True).report(target)
    return target
