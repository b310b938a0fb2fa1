"""The plugin against each version's own names: what it switches on, where, and what it refuses."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from spfast import ConfigError, Range, __version__
from spfast.integrations import vllm as integration
from spfast.integrations.vllm import plugin
from spfast.integrations.vllm.changes import refusals
from spfast.integrations.vllm.hosts import HOSTS, host_of

from .stubs import NEW, OLD, ON, OURS, VERSIONS, Group


def test_every_range_has_stubs_at_both_ends() -> None:
    assert {(0, 20), (0, 31), (0, 32), (0, 33)} == {h.first for h in HOSTS} | {
        h.last for h in HOSTS
    }
    assert [str(host_of(version)) for version in VERSIONS] == ["0.20 to 0.31"] * 4 + [
        "0.32 to 0.33"
    ] * 2


# --- off ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [None, {}, {"enable": False, "min_token_num": 5}])
def test_installed_means_off(vllm: Any, version: str, settings: Any, caplog: Any) -> None:
    plain = vllm(version, load=False)
    expected = plain.config(settings)
    before = vars(expected.compilation_config), plain.passes(expected), expected.compute_hash()
    plugin.load()
    found = plain.config(settings)
    assert (vars(found.compilation_config).keys(), plain.passes(found)) == (
        before[0].keys(),
        before[1],
    )
    assert found.compilation_config.splitting_ops == expected.compilation_config.splitting_ops
    assert found.scheduler_config.max_num_batched_tokens == 8190
    assert found.compilation_config.cudagraph_capture_sizes == [1, 2, 4, 8, 16]
    assert found.compute_hash() == before[2]
    dispatcher = plain.module("vllm.v1.cudagraph_dispatcher").CudagraphDispatcher(found)
    assert dispatcher.dispatch(5) == ("NONE", 5)
    assert not caplog.records


def test_loading_imports_nothing_of_vllm_and_may_be_repeated(vllm: Any) -> None:
    stub = vllm("0.32.0")
    plugin.load()
    assert {name for name in sys.modules if name.startswith("vllm.")} == {"vllm.version"}
    config = stub.config(ON)
    plugin.load()
    assert stub.passes(config).count(OURS) == 1


# --- on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", OLD)
def test_up_to_0_31_ours_takes_the_place_of_vllms_pass(vllm: Any, version: str) -> None:
    stub = vllm(version)
    config = stub.config(ON)
    assert config.compilation_config.pass_config.enable_sp is True
    assert config.compilation_config.pass_config.sp_min_token_num == 1024
    assert stub.passes(config) == ["vllm.NoOpEliminationPass", OURS, "vllm.AllReduceFusionPass"]
    (ours,) = [each for each in stub.manager(config).passes if hasattr(each, "config")]
    assert ours.config.divisibility == "assume"
    manager = stub.module("vllm.compilation.passes.pass_manager")
    assert manager.SequenceParallelismPass.__module__ == manager.__name__
    config.compilation_config.pass_config.fuse_gemm_comms = True
    assert stub.passes(config)[2] == "vllm.AsyncTPPass"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_fuses_pairs_runs_as_part_of_ours(vllm: Any, version: str) -> None:
    """Before vLLM's fusions; its own AsyncTPPass stays what its own switch says."""
    stub = vllm(version)
    fusing = stub.config({**ON, "async_tp": True})
    assert stub.passes(fusing) == ["vllm.NoOpEliminationPass", OURS, "vllm.AllReduceFusionPass"]
    for settings, fuses in ((fusing, True), (stub.config(ON), False)):
        (ours,) = [each for each in stub.manager(settings).passes if hasattr(each, "config")]
        assert ours.config.async_tp is fuses
    assert fusing.compute_hash() != stub.config(ON).compute_hash()


RUNNER = "vllm.v1.worker.gpu_model_runner"


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize("imported_before", [False, True])
def test_up_to_0_31_stages_exchange_the_residual_as_vllm_gathers_it(
    vllm: Any, version: str, imported_before: bool
) -> None:
    stub = vllm(version, load=False)
    if imported_before:
        stub.module(RUNNER)  # it imports the function by name
    plugin.load()
    scattered = stub.module(RUNNER).is_residual_scattered_for_sp
    # 0.20 has the next stage take its rows; later ones gather those of all ranks there.
    gathers = version != "0.20.2"
    assert scattered(stub.config(ON), 2048) is gathers
    assert scattered(stub.config(ON), 1024) is gathers
    assert scattered(stub.config(ON), 1023) is False
    assert scattered(stub.config(pass_config={"enable_sp": True, "sp_min_token_num": 8}), 8) is True
    (ours,) = [each for each in stub.manager(stub.config(ON)).passes if hasattr(each, "config")]
    assert ours._keeps_residual is gathers


class Received:
    """What vLLM's IntermediateTensors has."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = tensors


@pytest.mark.parametrize("version", OLD[1:])
@pytest.mark.parametrize(
    ("tokens", "sent", "gathered"),
    [(2048, 512, True), (2048, 2048, True), (8, 8, False)],
)
def test_a_residual_that_came_whole_is_gathered_from_its_rows(
    vllm: Any,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    tokens: int,
    sent: int,
    gathered: bool,
) -> None:
    stub = vllm(version)
    runner = stub.module(RUNNER).GPUModelRunner()
    runner.vllm_config = stub.config(ON)
    whole = torch.arange(float(tokens)).unsqueeze(1)
    state: Any = ModuleType("vllm.distributed.parallel_state")
    monkeypatch.setitem(sys.modules, state.__name__, state)
    seen = []
    runner.all_gather = lambda rows: seen.append(rows) or whole
    for rank in range(4):
        state._TP = Group(rank)
        own = whole[rank * (tokens // 4) : (rank + 1) * (tokens // 4)]
        arrived = Received(residual=own if sent < tokens else whole)
        found = runner.sync_and_gather_intermediate_tensors(tokens, arrived, True)
        assert torch.equal(found, whole)
        assert not gathered or torch.equal(seen.pop(), own)
    assert not seen


@pytest.mark.parametrize("version", NEW)
def test_from_0_32_on_the_plugin_does_what_vllm_did(vllm: Any, version: str) -> None:
    stub = vllm(version)
    config = stub.config(ON)
    stub.module("vllm.v1.cudagraph_dispatcher")
    compilation = config.compilation_config
    assert compilation.splitting_ops == []
    assert compilation.compile_ranges_endpoints == [1023, 8192]
    assert config.scheduler_config.max_num_batched_tokens == 8192
    assert compilation.cudagraph_capture_sizes == [4, 8, 16]
    assert compilation.max_cudagraph_capture_size == 16
    manager = stub.manager(config)
    assert stub.passes(config) == ["vllm.NoOpEliminationPass", OURS, "vllm.AllReduceFusionPass"]
    ours = manager.passes[1]
    assert ours.config.divisibility == "assume"
    assert [ours.is_applicable_for_range(each) for each in (Range(1, 1023), Range(1024, 8192))] == [
        False,
        True,
    ]
    config.compilation_config.pass_config.eliminate_noops = False
    assert stub.passes(config) == [OURS, "vllm.AllReduceFusionPass"]


@pytest.mark.parametrize("version", NEW)
def test_captured_sizes_fill_speculative_decoding_too(vllm: Any, version: str) -> None:
    config = vllm(version).config(
        ON,
        speculative_config=SimpleNamespace(num_speculative_tokens=2),
        compilation={"cudagraph_capture_sizes": [1, 3, 12, 15, 30], "compile_sizes": [1, 15]},
    )
    assert config.compilation_config.cudagraph_capture_sizes == [12, 24, 36]
    assert config.compilation_config.compile_sizes == [12, 24]


@pytest.mark.parametrize("version", NEW)
@pytest.mark.parametrize("tokens", range(1, 10))
def test_both_runners_pad_to_what_every_rank_can_share(
    vllm: Any, version: str, tokens: int
) -> None:
    stub = vllm(version)
    config = stub.config(ON)
    padded = -(-tokens // 4) * 4
    dispatcher = stub.module("vllm.v1.cudagraph_dispatcher").CudagraphDispatcher(config)
    assert dispatcher.dispatch(tokens, has_lora=False) == ("NONE", padded)
    assert dispatcher.dispatch(num_tokens=tokens) == ("NONE", padded)
    manager = stub.module("vllm.v1.worker.gpu.cudagraph_utils").CudaGraphManager()
    manager.vllm_config = config
    dispatch = stub.module("vllm.v1.worker.gpu.dp_utils").dispatch_cg_and_sync_dp
    assert dispatch(manager, 1, tokens, None, 1, 0) == (padded, None)
    assert dispatch(cudagraph_manager=manager, num_reqs=1, num_tokens=tokens) == (padded, None)
    assert dispatch(None, 1, tokens) == (tokens, None)


@pytest.mark.parametrize("version", NEW)
def test_without_padding_a_guard_would_never_be_asked(vllm: Any, version: str) -> None:
    stub = vllm(version)
    config = stub.config(ON)
    # The runner's module never came, so nothing pads.
    (ours,) = [each for each in stub.manager(config).passes if hasattr(each, "config")]
    assert ours.config.divisibility == "prove"
    assert integration.SequenceParallelismPass(config).config.divisibility == "prove"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("is_encoder", "divisibility"), [(False, "assume"), (True, "prove")])
def test_an_encoders_batches_are_not_padded(
    vllm: Any, version: str, is_encoder: bool, divisibility: str
) -> None:
    stub = vllm(version)
    stub.module("vllm.v1.cudagraph_dispatcher")
    backend = stub.module("vllm.compilation.backends").VllmBackend()
    backend.is_encoder = is_encoder
    backend.vllm_config = stub.config(ON)
    manager = stub.module("vllm.compilation.passes.pass_manager").PostGradPassManager()
    backend.pass_manager = manager
    backend.configure_post_pass()
    (ours,) = [each for each in manager.passes if hasattr(each, "config")]
    assert ours.config.divisibility == divisibility


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cache_key_tells_versions_and_settings_apart(
    vllm: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = vllm(version)
    key = stub.config(ON).compute_hash()
    assert key == stub.config(ON).compute_hash() and len(key) == 10
    assert key != stub.config({**ON, "min_token_num": 512}).compute_hash()
    assert key != stub.config({**ON, "enable": False}).compute_hash()
    monkeypatch.setattr("spfast.integrations.vllm.takeover.version", "0.0.0")
    assert key != stub.config(ON).compute_hash()


# --- what it says, and takes ----------------------------------------------------------------


@pytest.mark.parametrize(("major", "tokens"), [(9, 2048), (10, 8192)])
def test_the_threshold_is_that_of_vllms_platform(
    vllm: Any, major: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA is not started for it: the driver may fork its workers."""
    platforms: Any = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(
        is_cuda=lambda: True,
        get_device_capability=lambda: SimpleNamespace(major=major, minor=0),
    )
    stub = vllm("0.33.0")
    stub.module("vllm.version")
    monkeypatch.setitem(sys.modules, platforms.__name__, platforms)
    config = stub.config({"enable": True}, max_num_batched_tokens=16384)
    assert config.compilation_config.compile_ranges_endpoints == [tokens - 1, 16384]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_on_is_said_in_one_line(vllm: Any, version: str, caplog: Any) -> None:
    stub = vllm(version)
    with caplog.at_level(logging.INFO, logger="vllm.spfast"):
        stub.config(ON, max_num_batched_tokens=8192)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"spfast {__version__} in vLLM {version}: on, tp_size 4, from 1024 tokens on "
        f"(min_token_num=1024), ranges [1, 1023], [1024, 8192]"
    )


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (True, 'additional_config["spfast"] is True: pass an object, such as {"enable": true}'),
        ({"enabled": True}, "has no key 'enabled': pass one of enable, min_token_num"),
        ({"enable": "yes"}, "enable='yes' is neither true nor false"),
    ],
)
def test_a_setting_that_is_not_known_is_an_error(vllm: Any, found: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=".*") as caught:
        vllm("0.32.0").config(found)
    assert message in str(caught.value)


# --- a vLLM that is not as expected ---------------------------------------------------------


@pytest.mark.parametrize("version", ["0.19.1", "0.34.0", "1.0.0", "dev", "0.3.3"])
def test_an_unknown_version_is_left_as_it_is(vllm: Any, version: str, caplog: Any) -> None:
    stub = vllm(version)
    plugin.load()
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name == "vllm.spfast"
    assert record.getMessage() == (
        f"spfast knows vLLM 0.20 to 0.33 and leaves vLLM {version} as it is: "
        f"install another version of either"
    )
    config = stub.config(ON)
    assert config.scheduler_config.max_num_batched_tokens == 8190
    assert OURS not in stub.passes(config)


EACH_CHANGE = [
    (version, change.name)
    for version in ("0.20.2", "0.31.0", "0.32.0", "0.33.0")
    for change in host_of(version).changes  # type: ignore[union-attr]
    if change.name != "VllmConfig.__post_init__" and not change.optional
]


@pytest.mark.parametrize(("version", "name"), EACH_CHANGE)
@pytest.mark.parametrize("how", ["leave_out", "spoil"])
def test_a_change_that_cannot_be_made_leaves_the_plugin_off(
    vllm: Any, version: str, name: str, how: str, caplog: Any
) -> None:
    stub = vllm(version, **{how: name})
    try:
        config = stub.config(ON)
    except (AttributeError, NameError, TypeError):  # the stub itself calls what it lacks
        assert "off, because this vLLM is not as expected" in caplog.text
        return
    assert config.additional_config["spfast"]["enable"] is False
    assert f"{name} " in caplog.text and "expected" in caplog.text
    assert "install another version of vLLM or of spfast" in caplog.text


@pytest.mark.parametrize("how", ["leave_out", "spoil"])
def test_without_what_is_optional_the_residual_stays_whole(vllm: Any, how: str) -> None:
    stub = vllm("0.31.0", **{how: "GPUModelRunner.sync_and_gather_intermediate_tensors"})
    scattered = stub.module(RUNNER).is_residual_scattered_for_sp
    config = stub.config(ON)
    assert scattered(config, 2048) is False
    (ours,) = [each for each in stub.manager(config).passes if hasattr(each, "config")]
    assert ours._keeps_residual is False


def test_a_refusal_in_a_worker_is_known_there(vllm: Any) -> None:
    stub = vllm("0.32.0", spoil="CudagraphDispatcher.dispatch")
    dispatcher = stub.module("vllm.v1.cudagraph_dispatcher").CudagraphDispatcher
    assert list(refusals()) == [
        "vllm.v1.cudagraph_dispatcher.CudagraphDispatcher.dispatch takes (other, self, num_tokens, "
        "uniform_decode, has_lora, num_active_loras, valid_modes, invalid_modes): "
        "expected (self, num_tokens, ...)"
    ]
    assert not hasattr(dispatcher.dispatch, "__spfast_change__")
