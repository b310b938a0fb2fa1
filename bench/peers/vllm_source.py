"""Imports the few modules of an unpacked vLLM source tree that its SequenceParallelismPass is made
of.

vLLM itself needs a GPU build, so only the modules in ``REAL`` are executed, from the tree as they
are. What they import besides is stood in for: explicitly where the pass depends on the answer (the
process group, the platform, the configuration, whether the quantisation is a custom op), and by a
mock where it does not.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import re
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from .peer import Setting

PASSES = "vllm.compilation.passes"
PASS = f"{PASSES}.fusion.sequence_parallelism"
# Executed as they are in the tree; everything else is a stand-in.
REAL = (
    PASS,
    f"{PASSES}.fusion.matcher_utils",
    f"{PASSES}.fx_utils",
    f"{PASSES}.inductor_pass",
    f"{PASSES}.utility.noop_elimination",
    f"{PASSES}.vllm_inductor_pass",
    "vllm.model_executor.layers.quantization.input_quant_fp8",
    "vllm.model_executor.layers.quantization.utils.quant_utils",
)
BASES = (f"{PASSES}", f"{PASSES}.fusion", f"{PASSES}.utility")


def load_pass(source: Path, setting: Setting) -> Any:
    """A new SequenceParallelismPass of the tree at ``source``.

    Args:
        source: an unpacked vLLM source tree; the folder that holds ``vllm/``.
        setting: the ranks and the form of quantisation that the pass is to look for.

    Returns:
        The pass: called with a graph, it rewrites it and sets ``matched_count``.

    Raises:
        FileNotFoundError: there is no such pass in that tree.
    """
    path = source / (PASS.replace(".", "/") + ".py")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: let VLLM_SRC name an unpacked source tree of vLLM 0.21 to 0.31"
        )
    _declare_what_is_named(source)
    with _only_for_now(_Finder(source, setting)):
        module = importlib.import_module(PASS)
        return module.SequenceParallelismPass(_config())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers every import below ``vllm``."""

    def __init__(self, source: Path, setting: Setting) -> None:
        self._source = source
        self._stand_ins = _stand_ins(setting)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "vllm" and not name.startswith("vllm."):
            return None
        if name in REAL:
            file = self._source / (name.replace(".", "/") + ".py")
            return importlib.util.spec_from_file_location(name, file) if file.is_file() else None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name, self._stand_ins.get(spec.name, {}))

    def exec_module(self, module: types.ModuleType) -> None:
        """A stand-in is complete when it is made."""


class _StandIn(types.ModuleType):
    """A module that has what it was given, and a mock of whatever else is asked for."""

    def __init__(self, name: str, members: dict[str, Any]) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__dict__.update(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        mock = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, mock)
        return mock


@contextmanager
def _only_for_now(finder: _Finder) -> Iterator[None]:
    """Leaves no trace of the stand-ins behind, so that nobody takes vLLM for installed."""
    _forget()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget()


def _forget() -> None:
    for name in [n for n in sys.modules if n == "vllm" or n.startswith("vllm.")]:
        del sys.modules[name]


def _config() -> Any:
    """What the pass reads of a VllmConfig."""
    return SimpleNamespace(
        compilation_config=SimpleNamespace(
            splitting_ops=[],
            use_inductor_graph_partition=False,
            pass_config=SimpleNamespace(sp_min_token_num=None),
        ),
        model_config=SimpleNamespace(dtype=torch.bfloat16),
        device_config=SimpleNamespace(device="cpu"),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=8192),
        compile_debug_dump_path=lambda: None,
    )


def _stand_ins(setting: Setting) -> dict[str, dict[str, Any]]:
    """The members of the stand-ins on which the pass depends, by module."""
    ops = torch.ops

    class Group:
        unique_name = setting.group
        world_size = setting.tp_size
        rank_in_group = setting.tp_rank

        @staticmethod
        def all_reduce(x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = ops.vllm.all_reduce.default(x, setting.group)
            return out

    class CustomOp:
        """An op that is enabled where the graphs have the custom op for it."""

        def __init__(self, **_: Any) -> None: ...

        @classmethod
        def register(cls, _: str) -> Any:
            return lambda op: op

        @classmethod
        def enabled(cls) -> bool:
            return setting.quantised == "custom_op"

        def __call__(self, *args: Any) -> Any:
            return self.forward_native(*args)  # type: ignore[attr-defined]

    class Platform:
        device_type = "cpu"

        @staticmethod
        def fp8_dtype() -> torch.dtype:
            return torch.float8_e4m3fn

        def __getattr__(self, name: str) -> Any:
            if not name.startswith("is_"):
                raise AttributeError(name)
            return lambda *_: False

    state = {
        "get_tp_group": lambda: Group,
        "get_tensor_model_parallel_rank": lambda: setting.tp_rank,
        "get_tensor_model_parallel_world_size": lambda: setting.tp_size,
        "tensor_model_parallel_all_reduce": Group.all_reduce,
    }
    return {
        "vllm.config": {"get_current_vllm_config": _config, "VllmConfig": object},
        "vllm.distributed": state,
        "vllm.distributed.parallel_state": state,
        "vllm.ir.ops": {
            "rms_norm": ops.vllm_ir.rms_norm.default,
            "fused_add_rms_norm": ops.vllm_ir.fused_add_rms_norm.default,
        },
        "vllm.logger": {"init_logger": _logger},
        "vllm.model_executor.custom_op": {"CustomOp": CustomOp},
        "vllm.platforms": {"current_platform": Platform()},
        "vllm._aiter_ops": {"rocm_aiter_ops": Platform()},
    }


def _logger(name: str) -> Any:
    logger: Any = logging.getLogger(name)
    for level in ("debug", "info", "warning"):
        setattr(logger, f"{level}_once", lambda *_, **__: None)
    return logger


_NAMED = re.compile(r"torch\.ops\.(_C|vllm)\.(\w+)\.default")
_ASKED_FOR = re.compile(r"hasattr\(torch\.ops\.(_C|vllm), \"(\w+)\"\)")
_LIBRARIES: list[Any] = []


def _declare_what_is_named(source: Path) -> None:
    """Declares, without any behaviour, ops that the modules name at import and these graphs lack.

    Left alone are ops whose presence the modules ask for: absent is an answer too.
    """
    for name in REAL:
        file = source / (name.replace(".", "/") + ".py")
        text = file.read_text() if file.is_file() else ""
        for namespace, op in sorted(set(_NAMED.findall(text)) - set(_ASKED_FOR.findall(text))):
            if not hasattr(getattr(torch.ops, namespace), op):
                library: Any = torch.library.Library(namespace, "FRAGMENT")
                library.define(f"{op}() -> ()")
                _LIBRARIES.append(library)  # a library that is collected takes its ops with it
