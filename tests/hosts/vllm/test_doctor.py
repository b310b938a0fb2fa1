"""`spfast doctor vllm` against each version's own names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spfast import __version__
from spfast.cli import main

from .stubs import VERSIONS


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setattr("spfast.integrations.vllm.doctor._is_loaded", lambda: True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_vllm_as_expected(vllm: Any, version: str, installed: None, capsys: Any) -> None:
    vllm(version, load=False)
    assert main(["doctor", "vllm", "--strict"]) == 0
    first, second, *lines = capsys.readouterr().out.splitlines()
    assert first == f"spfast {__version__}, vLLM {version}"
    assert second.startswith("what is changed in vLLM 0.")
    assert "  found   vllm.config.vllm.VllmConfig.__post_init__" in lines
    assert "  found   vllm.compilation.passes.pass_manager.PostGradPassManager.configure" in lines
    assert lines[-1] == (
        """ready: switch it on with --additional-config '{"spfast": {"enable": true}}'"""
    )


def test_what_is_missing_is_named(
    vllm: Any, installed: None, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    vllm("0.33.0", load=False, leave_out="CudagraphDispatcher.dispatch")
    assert main(["doctor", "vllm", "--strict"]) == 1
    assert main(["doctor", "vllm"]) == 0
    out = capsys.readouterr().out
    place = "vllm.v1.cudagraph_dispatcher.CudagraphDispatcher.dispatch"
    assert f"  missing {place}\n" in out
    problem = f"{place} is not there: expected a function of (self, num_tokens)"
    assert f"problem: {problem}\n" in out
    assert "problem: a reduce_scatter's order is not batch invariant: unset VLLM_BATCH" in out
    assert "ready" not in out
    assert main(["doctor", "vllm", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["vllm"], record["known"]) == ("0.33.0", "0.32 to 0.33")
    assert [each["place"] for each in record["changes"] if each["problem"]] == [place]
    assert problem in record["problems"]


def test_an_unknown_version(vllm: Any, installed: None, capsys: Any) -> None:
    vllm("0.34.0", load=False)
    assert main(["doctor", "vllm", "--strict"]) == 1
    assert capsys.readouterr().out == (
        f"spfast {__version__}, vLLM 0.34.0\n"
        "problem: spfast knows vLLM 0.20 to 0.33 and would leave vLLM 0.34.0 as it is: "
        "install another version of either\n"
    )


def test_no_vllm(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spfast.integrations.vllm.doctor.vllm_version", lambda: None)
    assert main(["doctor", "vllm", "--strict"]) == 1
    assert "problem: vLLM cannot be imported here: install it" in capsys.readouterr().out


def test_a_plugin_that_vllm_is_told_not_to_load(
    vllm: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    vllm("0.32.0", load=False)
    assert main(["doctor", "vllm", "--strict"]) == 1
    assert (
        "problem: vLLM would not load the plugin: install spfast as a package, and name spfast"
        in (capsys.readouterr().out)
    )
