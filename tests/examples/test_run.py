"""Every example runs as a newcomer runs it, and says what its pass did."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from spfast.integrations.vllm.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "examples"
# What each prints, on every rank.
SAID = {
    "dtensor_inference.py": r"(4 all_reduces rewritten, outputs agree\n){2}",
    "dtensor_training.py": r"(8 all_reduces rewritten, loss and 13 gradients agree\n){2}",
    "async_tp.py": r"(4 all_reduces rewritten, \d pairs fused, outputs agree\n){2}",
    "hf_tp_plan.py": r"(5 all_reduces rewritten, logits agree\n){2}",
    "own_rule.py": r"without the rule: all_reduce\S*: no rule matches [^\n]*\n"
    r"with it: 1 sites rewritten, 0 left\n(.*\n)*",
    "drop_in_matcher.py": r"8 replaced\noutputs agree\n",
}
VLLM = "vllm_engine.py"


def test_every_example_is_run_and_listed() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == {*SAID, VLLM}
    page = (FOLDER / "README.md").read_text()
    assert all(f"[{name}]({name})" in page for name in (*SAID, VLLM))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SAID)
def test_an_example(name: str) -> None:
    if name == "hf_tp_plan.py":
        pytest.importorskip("transformers.distributed.tensor_parallel")
    ended = subprocess.run(
        [sys.executable, FOLDER / name], capture_output=True, text=True, timeout=580
    )
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(SAID[name], ended.stdout), ended.stdout


def test_the_engine_of_vllm_gets_settings_that_the_plugin_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    class LLM:
        def __init__(self, **arguments: Any) -> None:
            given.update(arguments)

        def generate(self, prompts: list[str], params: Any) -> list[Any]:
            said = types.SimpleNamespace(text="the rest")
            return [types.SimpleNamespace(prompt=each, outputs=[said]) for each in prompts]

    stub = types.ModuleType("vllm")
    stub.LLM, stub.SamplingParams = LLM, types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", stub)
    monkeypatch.setattr(sys, "argv", [VLLM, "a/model", "4"])
    runpy.run_path(str(FOLDER / VLLM), run_name="__main__")
    assert capsys.readouterr().out.count("-> the rest") == 2
    assert given["model"] == "a/model" and given["tensor_parallel_size"] == 4
    settings = Settings.of(types.SimpleNamespace(**given))
    assert settings.enable and settings.min_token_num == 256
