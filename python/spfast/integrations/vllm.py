"""A drop-in for vLLM's SequenceParallelismPass: the same constructor, the same questions.

vLLM shipped the pass up to 0.31 and removed it in 0.32. Up to 0.31, :func:`install` puts this class
where vLLM's pass manager looks for its own. From 0.32 on, give an instance to vLLM as the custom
pass of its compilation config; then the host has to pad token counts itself, and the config's
``divisibility`` stays "guard".

Nothing here imports vLLM: it is looked up among the modules that are loaded already, and the
config is read by its attributes alone.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from spfast.config import Applicability, Range, SequenceParallelConfig, applicability
from spfast.errors import ConfigError
from spfast.passes.sequence_parallelism import SequenceParallelismPass as _Pass
from spfast.thresholds import DeviceKind

__all__ = ["SequenceParallelismPass", "config_from_vllm", "install"]

logger = logging.getLogger("spfast")

# Where the base class, the pass manager and the groups live, newest vLLM first.
_BASE_MODULES = ("vllm.compilation.passes.inductor_pass", "vllm.compilation.inductor_pass")
_MANAGER_MODULES = ("vllm.compilation.passes.pass_manager", "vllm.compilation.pass_manager")
_GROUPS_MODULE = "vllm.distributed.parallel_state"


def config_from_vllm(vllm_config: Any) -> SequenceParallelConfig:
    """Reads what the pass needs from a VllmConfig, or from anything with its attributes.

    Args:
        vllm_config: Has ``parallel_config.tensor_parallel_size`` and ``compilation_config``; may
            have ``model_config``, ``scheduler_config`` and ``device_config``. What is absent
            counts as not given.

    Returns:
        The configuration. ``divisibility`` is "assume" where vLLM's own sequence-parallel switch
        is on, because vLLM then pads every batch to a multiple of tp_size; else "guard".

    Raises:
        ConfigError: The object does not say how many tensor-parallel ranks there are.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> config_from_vllm(Config(
        ...     parallel_config=Config(tensor_parallel_size=8),
        ...     compilation_config=Config(pass_config=Config(sp_min_token_num=1024)),
        ... )).min_token_num
        1024
    """
    tp_size = _read(vllm_config, "parallel_config", "tensor_parallel_size")
    if tp_size is None:
        raise ConfigError(
            f"{type(vllm_config).__name__} has no parallel_config.tensor_parallel_size: "
            f"pass a VllmConfig, or an object with its attributes"
        )
    model = _read(vllm_config, "model_config")
    compilation = _read(vllm_config, "compilation_config")
    pads = any(
        _read(compilation, "pass_config", switch)
        for switch in ("enable_sp", "enable_sequence_parallelism")
    )
    return SequenceParallelConfig(
        tp_size=tp_size,
        min_token_num=_read(compilation, "pass_config", "sp_min_token_num"),
        max_num_batched_tokens=_read(vllm_config, "scheduler_config", "max_num_batched_tokens"),
        hidden_size=model.get_hidden_size() if hasattr(model, "get_hidden_size") else None,
        dtype=_read(model, "dtype"),
        device=_device(_read(vllm_config, "device_config", "device")),
        splitting_ops=tuple(_read(compilation, "splitting_ops") or ()),
        use_inductor_graph_partition=bool(_read(compilation, "use_inductor_graph_partition")),
        divisibility="assume" if pads else "guard",
    )


class SequenceParallelismPass(CustomGraphPass):
    """vLLM's SequenceParallelismPass, by its own interface, on spfast's engine.

    Attributes:
        config: What was read from the VllmConfig.
        pass_name: The name under which vLLM logs and dumps it.

    Args:
        config: A VllmConfig, or an object with its attributes.

    Raises:
        ConfigError: See :func:`config_from_vllm`.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> sp = SequenceParallelismPass(Config(
        ...     parallel_config=Config(tensor_parallel_size=8),
        ...     compilation_config=Config(pass_config=Config(sp_min_token_num=1024)),
        ... ))
        >>> from spfast import Range
        >>> sp.is_applicable_for_range(Range(1024, 8192))
        True
    """

    pass_name = "SequenceParallelismPass"

    def __init__(self, config: Any) -> None:
        self.config = config_from_vllm(config)
        self._pass: _Pass | None = None
        _count_as_inductor_pass(type(self))

    @property
    def min_token_num(self) -> int | None:
        """The explicit threshold, capped as vLLM caps it; None leaves it to spfast's table."""
        own, cap = self.config.min_token_num, self.config.max_num_batched_tokens
        return own if own is None or cap is None else min(own, cap)

    @property
    def matched_count(self) -> int:
        """Sites that the latest call rewrote."""
        return self._pass.matched_count if self._pass else 0

    @property
    def result(self) -> Any:
        """The latest call's Result, or None."""
        return self._pass.result if self._pass else None

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrites ``graph`` in place; the range is asked by whoever schedules the pass."""
        self._resolved()(graph)

    def uuid(self) -> str:
        """The part of Inductor's cache key that stands for this pass."""
        return f"spfast.vllm.{self._resolved().uuid()}"

    def applicability(self, compile_range: Any) -> Applicability:
        """Decides for a compile range, with the reason.

        Args:
            compile_range: Anything with ``start`` and ``end``, such as vLLM's Range.
        """
        if os.environ.get("VLLM_BATCH_INVARIANT", "0") not in ("", "0"):
            return Applicability(
                False, "VLLM_BATCH_INVARIANT is set, and a reduce_scatter's order is not"
            )
        return applicability(self.config, Range(compile_range.start, compile_range.end))

    def is_applicable_for_range(self, compile_range: Any) -> bool:
        """Says whether to run on a compile range, as vLLM 0.13 and later ask."""
        decision = self.applicability(compile_range)
        logger.info("%s: %s", self.pass_name, decision)
        return bool(decision)

    def is_applicable_for_shape(self, shape: int | None) -> bool:
        """Says whether to run for one size, or for all (None), as vLLM up to 0.12 asks."""
        if not self.config.splitting_ops or self.config.use_inductor_graph_partition:
            return True
        return shape is not None and shape % (self.config.tp_size or 1) == 0

    is_applicable = is_applicable_for_shape

    def _resolved(self) -> _Pass:
        """The pass itself, once vLLM's group is known: only its all_reduces are rewritten."""
        if self._pass is None:
            group = _tp_group()
            if group is not None:
                self.config = dataclasses.replace(
                    self.config, group_name=group.unique_name, tp_rank=group.rank_in_group
                )
            self._pass = _Pass(self.config)
        return self._pass


def install() -> str:
    """Makes a vLLM that still has the pass (up to 0.31) build spfast's in its place.

    Call it after vLLM was imported and before it compiles a model.

    Returns:
        The name of the vLLM module in which the class was replaced.

    Raises:
        ConfigError: No vLLM is loaded, or one that has no such pass.
    """
    for name in _MANAGER_MODULES:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "SequenceParallelismPass"):
            setattr(module, "SequenceParallelismPass", SequenceParallelismPass)  # noqa: B010
            logger.info("vLLM's SequenceParallelismPass is replaced in %s", name)
            return name
    raise ConfigError(
        "no loaded vLLM has a SequenceParallelismPass to replace: import vllm's pass manager "
        "first, or from vLLM 0.32 on set the pass as post_grad_custom_post_pass in "
        "compilation_config.inductor_compile_config"
    )


def _read(root: Any, *path: str) -> Any:
    for name in path:
        root = getattr(root, name, None)
    return root


def _device(device: Any) -> Any:
    """The device where it names one; vLLM also says "auto", and then the process is asked."""
    try:
        DeviceKind.parse(device)
    except ConfigError:
        return None
    return device


def _count_as_inductor_pass(cls: type) -> None:
    """Answers the isinstance(pass, InductorPass) of vLLM: an abstract base class can be told so."""
    for name in _BASE_MODULES:
        base = getattr(sys.modules.get(name), "InductorPass", None)
        if base is not None and not issubclass(cls, base):
            base.register(cls)


def _tp_group() -> Any:
    groups = sys.modules.get(_GROUPS_MODULE)
    return getattr(groups, "_TP", None)
