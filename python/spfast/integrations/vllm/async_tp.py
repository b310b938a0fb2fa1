"""A drop-in for vLLM's AsyncTPPass: the same constructor, the same questions."""

from __future__ import annotations

from typing import Any

from torch import fx

from spfast.applicability import Applicability, split_applicability
from spfast.config import Range
from spfast.integrations.vllm import said
from spfast.integrations.vllm.sp import SequenceParallelismPass, compiled_range
from spfast.passes.async_tp import AsyncTPPass as _Pass

__all__ = ["AsyncTPPass"]


class AsyncTPPass(SequenceParallelismPass):
    """vLLM's AsyncTPPass, by its own interface, on spfast's engine.

    It runs after a sequence-parallel pass, and enables symmetric memory for vLLM's tensor-parallel
    group when it first compiles.

    Attributes:
        config: What was read from the VllmConfig.
        pass_name: The name under which vLLM logs and dumps it.
        result: The latest call's Result, with its ``async_tp``; or None.

    Args:
        config: A VllmConfig, or an object with its attributes.

    Raises:
        ConfigError: See :func:`config_from_vllm`.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> fusing = AsyncTPPass(Config(parallel_config=Config(tensor_parallel_size=8)))
        >>> fusing.is_applicable_for_range(Range(1, 64))
        True
    """

    pass_name = "AsyncTPPass"

    @property
    def matched_count(self) -> int:
        """Pairs that the latest call fused."""
        found = self.result.async_tp if self.result is not None else None
        return len(found.fused) if found is not None else 0

    def __call__(self, graph: fx.Graph) -> None:
        """Fuses the pairs of ``graph`` in place."""
        config = self._resolved()
        inner = _Pass(config)
        inner(graph)
        self.result = inner.result
        if (config.tp_rank or 0) == 0 and self.result is not None:
            said.fused(compiled_range(), self.result)

    def uuid(self) -> str:
        """Like SequenceParallelismPass.uuid, but a key of its own."""
        return f"{super().uuid()}.pairs"

    def applicability(self, compile_range: Any) -> Applicability:
        """Whether graphs of a range may be changed: thresholds are asked pair by pair."""
        refused = split_applicability(self.config, Range(compile_range.start, compile_range.end))
        if refused is not None:
            return refused
        return Applicability(True, "each pair is looked up in the thresholds by itself")

    @property
    def _fuses(self) -> bool:
        return True
