"""Installed whatever was imported before, the pass serves a host's workers."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from spfast import ConfigError, Range
from spfast.integrations import vllm as integration

from .stubs import NEW, OLD, ON, OURS, Group


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize(
    "imported", [[], ["vllm.config.vllm"], ["vllm.compilation.passes.pass_manager"]]
)
def test_install_whatever_was_imported_before(
    vllm: Any, version: str, imported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPFAST_VLLM_INSTALL", "0")  # so that it is taken back
    stub = vllm(version, load=False)
    for name in imported:
        stub.module(name)
    assert integration.install() == "vllm.compilation.passes.pass_manager"
    assert os.environ["SPFAST_VLLM_INSTALL"] == "1"  # what a worker inherits
    switched = {"enable_sp": True, "sp_min_token_num": 512}
    config = stub.config(pass_config=switched)
    assert OURS in stub.passes(config)
    assert "spfast.AsyncTPPass" not in stub.passes(config)
    theirs = stub.config().compute_hash()
    assert config.compute_hash() != theirs
    assert OURS not in stub.passes(stub.config())
    manager = stub.module("vllm.compilation.passes.pass_manager")
    classes = manager.SequenceParallelismPass, manager.AsyncTPPass
    config.compilation_config.pass_config.fuse_gemm_comms = True
    assert stub.passes(config)[1:3] == [OURS, "spfast.AsyncTPPass"]
    assert (manager.SequenceParallelismPass, manager.AsyncTPPass) == classes


@pytest.mark.parametrize("version", OLD)
def test_a_worker_of_a_process_that_installed(
    vllm: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPFAST_VLLM_INSTALL", "1")
    stub = vllm(version)  # no more than the plugin, as a worker loads it
    assert OURS in stub.passes(stub.config(pass_config={"enable_sp": True, "sp_min_token_num": 8}))


@pytest.mark.parametrize("version", NEW)
def test_install_says_what_to_do_where_there_is_nothing_to_replace(vllm: Any, version: str) -> None:
    vllm(version, load=False)
    with pytest.raises(ConfigError) as caught:
        integration.install()
    assert str(caught.value) == (
        f"vLLM {version} has no SequenceParallelismPass to replace: switch the plugin on, "
        f"""--additional-config '{{"spfast": {{"enable": true}}}}'"""
    )


# --- the pass in a host ---------------------------------------------------------------------


WORKER = """
import pickle, sys
import spfast
before = set(sys.modules)
from importlib.metadata import entry_points
(plugin,) = entry_points(group="vllm.general_plugins", name="spfast")
plugin.load()()
added = {name for name in set(sys.modules) - before if name.partition(".")[0] in ("torch", "vllm")}
assert added == {"vllm", "vllm.version"}, f"loading the plugin imports {added}"
later = {"api", "config", "patterns", "result", "thresholds", "integrations.vllm.sp"}
assert not {f"spfast.{name}" for name in later} & set(sys.modules)
arrived = pickle.loads(bytes.fromhex(sys.argv[1]))
assert "vllm.compilation" not in sys.modules
from vllm.compilation.passes.inductor_pass import InductorPass
assert isinstance(arrived, InductorPass)
assert (arrived.config.min_token_num, arrived.config.group_name) == (1024, None)
"""


def test_a_worker_loads_little_and_unpickles_vllms_own_kind_of_pass(
    vllm: Any, tmp_path: Any
) -> None:
    sent = pickle.dumps(integration.SequenceParallelismPass(vllm("0.32.0").config(ON)))
    subprocess.run(
        [sys.executable, "-c", WORKER, sent.hex()],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "0.32.0")},
        check=True,
    )


def test_uuid(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = vllm("0.32.0")
    config = stub.config(ON)
    passes = stub.module("vllm.compilation.passes.inductor_pass")
    state = ModuleType("vllm.distributed.parallel_state")
    monkeypatch.setitem(sys.modules, state.__name__, state)
    ours = integration.SequenceParallelismPass(config)
    hashed = {ours.uuid()}  # before any group exists
    keys = set()
    for rank in range(4):
        state._TP = Group(rank)  # type: ignore[attr-defined]
        hashed |= {ours.uuid(), pickle.loads(pickle.dumps(ours)).uuid()}
        monkeypatch.setattr(passes, "_pass_context", passes.PassContext(Range(1024, 8192)))
        keys.add(ours.uuid())
        monkeypatch.setattr(passes, "_pass_context", None)
    assert len(hashed) == 1, "each rank would have a compile cache of its own"
    assert len(keys) == 4 and not keys & hashed, "ranks would take each other's rows from the cache"
    other = integration.SequenceParallelismPass(stub.config({**ON, "min_token_num": 512}))
    assert other.uuid() not in hashed
