"""A drop-in for vLLM's SequenceParallelismPass: the same constructor, the same questions."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
from types import ModuleType
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from spfast.applicability import Applicability, applicability
from spfast.async_tp import enable_async_tp, enabled_groups
from spfast.config import Range, SequenceParallelConfig
from spfast.errors import ConfigError
from spfast.integrations.vllm import said
from spfast.integrations.vllm.host_config import config_from_vllm
from spfast.integrations.vllm.imports import when_imported
from spfast.integrations.vllm.takeover import identity
from spfast.passes.sequence_parallelism import SequenceParallelismPass as _Pass
from spfast.ranks.groups import known_groups
from spfast.result import Result

__all__ = ["SequenceParallelismPass", "compiled_range"]

logger = logging.getLogger("spfast")

# Where the base class and the compiled range live, newest vLLM first.
_BASE_MODULES = ("vllm.compilation.passes.inductor_pass", "vllm.compilation.inductor_pass")
_GROUPS_MODULE = "vllm.distributed.parallel_state"


class SequenceParallelismPass(CustomGraphPass):
    """vLLM's SequenceParallelismPass, by its own interface, on spfast's engine.

    It pickles. In the process where it arrives, it counts as vLLM's InductorPass and looks up the
    group of that process.

    Attributes:
        config: What was read from the VllmConfig.
        pass_name: The name under which vLLM logs and dumps it.
        result: The latest call's Result, or None.

    Args:
        config: A VllmConfig, or an object with its attributes.
        pads: As in :func:`config_from_vllm`.
        keeps_residual: Whether the next pipeline stage gathers the residual of this one, so that it
            may leave the graph as this rank's rows.

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

    def __init__(self, config: Any, pads: bool | None = None, keeps_residual: bool = False) -> None:
        self.config = config_from_vllm(config, pads=pads)
        self.result: Result | None = None
        self._ends = _ends(config)
        self._keeps_residual = keeps_residual

    @property
    def min_token_num(self) -> int | None:
        """The explicit threshold, capped as vLLM caps it; None leaves it to spfast's table."""
        own, cap = self.config.min_token_num, self.config.max_num_batched_tokens
        return own if own is None or cap is None else min(own, cap)

    @property
    def matched_count(self) -> int:
        """Sites that the latest call rewrote."""
        return self.result.matched_count if self.result is not None else 0

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrites ``graph`` in place; the range is asked by whoever schedules the pass."""
        config = self._resolved()
        if self._hands_on() and _returns_a_residual(graph):
            config = dataclasses.replace(config, local_outputs=(_RESIDUAL,))
        inner = _Pass(config)
        inner(graph)
        self.result = inner.result
        assert self.result is not None
        if (config.tp_rank or 0) == 0 and (self.result.matched_count or self.result.skipped):
            said.rewritten(config, self._ends, compiled_range(), self.result)

    def uuid(self) -> str:
        """The part of a cache key that stands for this pass.

        vLLM asks twice. For the hash of vLLM's config, the part is the same on every rank, and no
        group exists yet. While a range is compiled, the part goes into Inductor's key. The ranks
        share that cache, so there it names the rank, because each rank keeps rows of its own.
        """
        config = dataclasses.replace(self.config, tp_rank=None, group_name=None)
        parts = [identity(), json.dumps(config.to_dict())]
        if _pass_context() is not None:
            here = self._resolved()
            parts += [str(here.group_name), str(here.tp_rank), repr(known_groups())]
            parts.append(repr(enabled_groups()))
            parts.append(f"hands on {self._hands_on()}")
        return f"spfast.vllm.{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"

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

    def _resolved(self) -> SequenceParallelConfig:
        """The config with vLLM's group, once there is one: only its all_reduces are rewritten."""
        group = getattr(sys.modules.get(_GROUPS_MODULE), "_TP", None)
        if group is None:
            return self.config
        if self._fuses:
            _enable(group)
        return dataclasses.replace(
            self.config, group_name=group.unique_name, tp_rank=group.rank_in_group
        )

    @property
    def _fuses(self) -> bool:
        """Whether pairs are fused, for which the group must be enabled."""
        return self.config.async_tp

    def _hands_on(self) -> bool:
        """Whether this is a pipeline stage whose residual the next one gathers."""
        stages = getattr(sys.modules.get(_GROUPS_MODULE), "_PP", None)
        return self._keeps_residual and stages is not None and not stages.is_last_rank

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in ("config", "_ends", "_keeps_residual")}
        return {**kept, "result": None}


def _enable(group: Any) -> None:
    """Allows fused operators for vLLM's group; where they cannot work, each pair says why."""
    with contextlib.suppress(ConfigError):
        enable_async_tp(getattr(group, "device_group", group))


# A stage returns its hidden states and its residual, in this order.
_RESIDUAL = 1


def _returns_a_residual(graph: fx.Graph) -> bool:
    """Whether the graph returns just two streams, for other results are not known here."""
    returned = next(iter(reversed(graph.nodes))).args[0]
    if not isinstance(returned, (list, tuple)) or len(returned) != _RESIDUAL + 1:
        return False
    shapes = [getattr(getattr(each, "meta", {}).get("val"), "shape", None) for each in returned]
    return shapes[0] is not None and len(shapes[0]) == 2 and shapes[0] == shapes[1]


def _ends(vllm_config: Any) -> tuple[int, ...]:
    compilation = getattr(vllm_config, "compilation_config", None)
    return tuple(getattr(compilation, "compile_ranges_endpoints", None) or ())


def _pass_context() -> Any:
    """vLLM's note of the range that is being compiled; None where nothing is."""
    for name in _BASE_MODULES:
        found = getattr(sys.modules.get(name), "_pass_context", None)
        if found is not None:
            return found
    return None


def compiled_range() -> str:
    """The token counts that vLLM compiles for now, for people."""
    context = _pass_context()
    found = getattr(context, "compile_range", None)
    return "all" if found is None else f"{found.start} to {found.end}"


def _count_as_inductor_pass(module: ModuleType) -> None:
    """Registers the pass with vLLM's abstract class, so that it counts as an InductorPass."""
    base = getattr(module, "InductorPass", None)
    if base is not None:
        base.register(SequenceParallelismPass)


# In a worker that gets the pass by pickle, this module may come before vLLM's.
for _name in _BASE_MODULES:
    when_imported(_name, _count_as_inductor_pass)
