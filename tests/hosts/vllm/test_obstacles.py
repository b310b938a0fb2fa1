"""Where the plugin cannot apply, it is off, and says why and what to change."""

from __future__ import annotations

import logging
from types import SimpleNamespace as Speculative
from typing import Any

import pytest

from spfast import __version__

from .stubs import NEW, OLD, ON, OURS, VERSIONS

MODE = "compilation mode NONE runs no pass: pass -O2, and no --compilation-config with another mode"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("given", "environment", "reason"),
    [
        ({"tp_size": 1}, {}, "there is one tensor-parallel rank: pass --tensor-parallel-size"),
        ({"enforce_eager": True}, {}, "nothing is compiled: leave --enforce-eager out"),
        (
            {},
            {"VLLM_BATCH_INVARIANT": "1"},
            "a reduce_scatter's order is not batch invariant: unset VLLM_BATCH_INVARIANT",
        ),
        ({"compilation": {"mode": "NONE"}}, {}, MODE),
        (
            {"compilation": {"mode": "NONE"}},
            {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"},  # vLLM sets it itself, for some architectures
            "compilation mode NONE runs no pass: set VLLM_USE_BREAKABLE_CUDAGRAPH=0",
        ),
        (
            {"compilation": {"backend": "eager"}},
            {},
            "backend 'eager' runs no pass: leave backend out of --compilation-config",
        ),
        (
            {"parallel": {"enable_dbo": True}},
            {},
            "microbatches are cut at token counts that not every rank can share: "
            "leave --enable-dbo out",
        ),
        (
            {"speculative_config": Speculative(num_speculative_tokens_per_batch_size=[(1, 2)])},
            {},
            "dynamic speculative decoding captures token counts that not every rank can share: "
            "leave num_speculative_tokens_per_batch_size out of --speculative-config",
        ),
    ],
)
def test_where_it_cannot_apply_the_reason_is_said_once(
    vllm: Any,
    version: str,
    given: dict[str, Any],
    environment: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stub = vllm(version)
    users = dict(ON)
    with caplog.at_level(logging.INFO, logger="vllm.spfast"):
        config = stub.config(users, **given)
        stub.config(users, **given)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "vllm.spfast"]
    assert line == f"spfast {__version__} in vLLM {version}: off, because {reason}"
    assert config.additional_config["spfast"]["enable"] is False
    assert users == ON
    assert OURS not in stub.passes(config)


@pytest.mark.parametrize(("version", "off"), [("0.31.0", True), ("0.32.0", False)])
def test_model_runner_v2_pads_only_where_the_plugin_makes_it(
    vllm: Any, version: str, off: bool, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    vllm(version).config(ON)
    assert (
        "off, because vLLM 0.20 to 0.31 pads no batch in model runner V2: "
        "unset VLLM_USE_V2_MODEL_RUNNER" in caplog.text
    ) is off


@pytest.mark.parametrize("version", OLD[1:])
def test_what_needs_model_runner_v2_needs_a_vllm_that_the_plugin_pads(
    vllm: Any, version: str, caplog: Any
) -> None:
    stub = vllm(version)
    config = stub.config(ON, model={"is_newer": True})  # V2, were it not for vLLM's own switch
    assert config.additional_config["spfast"]["enable"] is True and not caplog.records
    config = stub.config(ON, model={"is_diffusion": True})
    assert (
        "off, because vLLM 0.20 to 0.31 pads no batch in model runner V2, and this model or its "
        "options need it: take vLLM 0.32 or 0.33" in caplog.text
    )
    assert not config.compilation_config.pass_config.enable_sp
    assert config.additional_config["spfast"]["enable"] is False


def test_what_v1_lacks_needs_a_newer_vllm(vllm: Any, caplog: Any) -> None:
    config = vllm("0.31.0").config(ON, scheduler={"async_scheduling": True})
    assert (
        "pads no batch in model runner V2, and V1 does not support pipeline parallelism with "
        "async scheduling: take vLLM 0.32 or 0.33" in caplog.text
    )
    assert config.additional_config["spfast"]["enable"] is False


@pytest.mark.parametrize("version", NEW)
def test_a_graph_that_the_user_splits_is_told(vllm: Any, version: str, caplog: Any) -> None:
    stub = vllm(version)
    split = {"splitting_ops": ["vllm::attention"]}
    stub.config(ON, compilation=split)
    assert (
        "off, because splitting_ops=['vllm::attention'] cuts the graph into pieces" in caplog.text
    )
    assert "or set use_inductor_graph_partition there" in caplog.text
    caplog.clear()
    stub.config({**ON, "full_graph": False})
    assert 'cuts the graph into pieces: leave "full_graph" out' in caplog.text
    caplog.clear()
    partitioned = stub.config(ON, compilation={**split, "use_inductor_graph_partition": True})
    single = stub.config(ON, compilation={**split, "compile_sizes": [2048]})
    assert "off" not in caplog.text
    assert partitioned.compilation_config.compile_ranges_endpoints == [1023, 8192]
    assert single.compilation_config.compile_ranges_endpoints == [8192]
    assert OURS in stub.passes(partitioned) and OURS in stub.passes(single)


@pytest.mark.parametrize(("version", "off"), [("0.31.0", True), ("0.32.0", False)])
def test_speculative_steps_that_vllm_cannot_capture(
    vllm: Any, version: str, off: bool, caplog: Any
) -> None:
    stub = vllm(version)
    stub.config(ON, speculative_config=Speculative(num_speculative_tokens=3))
    assert not caplog.records
    stub.config(ON, speculative_config=Speculative(num_speculative_tokens=2))
    assert (
        "off, because vLLM 0.20 to 0.31 captures no token count for both 3 tokens a speculative "
        "step and 4 ranks: change num_speculative_tokens in --speculative-config" in caplog.text
    ) is off


def test_an_unknown_threshold_is_told(vllm: Any, caplog: Any) -> None:
    config = vllm("0.33.0").config({"enable": True}, device_config=None)
    assert 'set "min_token_num" beside "enable"' in caplog.text
    assert config.additional_config["spfast"]["enable"] is False
