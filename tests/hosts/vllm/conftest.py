"""A stub of vLLM in place of the real one, for one test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spfast.integrations.vllm import changes, imports, plugin, said, takeover

from .stubs import write


class Stub:
    """The stub of one version, as the plugin meets it."""

    def __init__(self, version: str) -> None:
        self.version = version

    def module(self, name: str) -> Any:
        return importlib.import_module(name)

    def config(self, settings: dict[str, Any] | None = None, **given: Any) -> Any:
        """A VllmConfig that has been through its own __post_init__."""
        compilation = self.module("vllm.config.compilation")
        pass_config = compilation.PassConfig(
            eliminate_noops=True, fuse_allreduce_rms=True, **given.pop("pass_config", {})
        )
        made = {
            "model_config": SimpleNamespace(
                enforce_eager=given.pop("enforce_eager", False),
                dtype=torch.bfloat16,
                get_hidden_size=lambda: 8192,
                **given.pop("model", {}),
            ),
            "parallel_config": self.module("vllm.config.parallel").ParallelConfig(
                tensor_parallel_size=given.pop("tp_size", 4), **given.pop("parallel", {})
            ),
            "scheduler_config": self.module("vllm.config.scheduler").SchedulerConfig(
                max_num_batched_tokens=given.pop("max_num_batched_tokens", 8190),
                **given.pop("scheduler", {}),
            ),
            "compilation_config": compilation.CompilationConfig(
                pass_config=pass_config, **{"backend": "inductor", **given.pop("compilation", {})}
            ),
            "additional_config": {} if settings is None else {"spfast": settings},
        }
        return self.module("vllm.config.vllm").VllmConfig(**{**made, **given})

    def manager(self, config: Any) -> Any:
        """The pass manager that a worker configures."""
        manager = self.module("vllm.compilation.passes.pass_manager").PostGradPassManager()
        manager.configure(config)
        return manager

    def passes(self, config: Any) -> list[str]:
        return [
            f"{type(each).__module__.partition('.')[0]}.{type(each).__name__}"
            for each in self.manager(config).passes
        ]


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a stub: ``vllm(version)``, with ``leave_out`` and ``spoil`` as ``write`` has them."""
    kept = {name: module for name, module in sys.modules.items() if _is_vllm(name)}
    for name in kept:
        del sys.modules[name]
    monkeypatch.setattr(changes, "_made", set())
    monkeypatch.setattr(changes, "_refused", {})
    monkeypatch.setattr(plugin, "_warned", set())
    monkeypatch.setattr(said, "_said", set())
    finder = imports._Finder()
    monkeypatch.setattr(imports, "_finder", finder)
    monkeypatch.delenv(takeover.ENVIRONMENT, raising=False)
    for name in ("VLLM_BATCH_INVARIANT", "VLLM_USE_V2_MODEL_RUNNER"):
        monkeypatch.delenv(name, raising=False)

    def make(version: str, *, load: bool = True, **how: str) -> Stub:
        folder = tmp_path / version
        write(folder, version, **how)
        monkeypatch.syspath_prepend(str(folder))
        changes._parsed.cache_clear()
        if load:
            plugin.load()
        return Stub(version)

    found: Callable[..., Stub] = make
    yield found
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if _is_vllm(name)]:
        del sys.modules[name]
    sys.modules.update(kept)
    importlib.invalidate_caches()


def _is_vllm(name: str) -> bool:
    return name == "vllm" or name.startswith("vllm.")
