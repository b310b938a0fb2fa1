"""The pass that fuses collectives with matrix products, as Inductor takes it."""

from __future__ import annotations

from torch import fx

from spfast.applicability import Applicability, split_applicability
from spfast.config import Range
from spfast.pairs import AsyncTP
from spfast.passes.sequence_parallelism import SequenceParallelismPass
from spfast.run.pairing import fuse

__all__ = ["AsyncTPPass"]


class AsyncTPPass(SequenceParallelismPass):
    """Async tensor parallelism as a ``torch._inductor`` custom graph pass.

    It makes one operator of each collective and the matrix products beside it, where that is worth
    it; run it after :class:`SequenceParallelismPass`, which makes such pairs, or set
    ``SequenceParallelConfig(async_tp=True)`` and let that pass do both. Needs
    :func:`spfast.enable_async_tp` for the group.

    Attributes:
        config: How it works; its ``async_tp`` does not matter here.
        pass_name: The name under which it shows up in logs and dumps.
        matched_count: Pairs that the latest call fused.
        result: What the latest call did, in its ``async_tp``; None before the first compile.

    Raises:
        ConfigError: As :class:`SequenceParallelismPass`.

    Example:
        >>> from spfast import SequenceParallelConfig
        >>> fusing = AsyncTPPass(SequenceParallelConfig(tp_size=8, min_token_num=1024))
        >>> fusing(fx.Graph())
        >>> fusing.matched_count
        0
        >>> fusing.is_applicable_for_range(Range(1, 64))
        True
    """

    pass_name = "async_tp"

    @property
    def matched_count(self) -> int:
        """Pairs that the latest call fused."""
        found = self._result.async_tp if self._result is not None else None
        return len(found.fused) if found is not None else 0

    @property
    def pairs(self) -> AsyncTP:
        """The pairs of the latest call, fused and left."""
        found = self._result.async_tp if self._result is not None else None
        return found if found is not None else AsyncTP()

    def __repr__(self) -> str:
        done = "not called yet" if self._result is None else f"latest: {self.pairs.summary()}"
        return f"<{type(self).__name__} with {self.config!r}; {done}>"

    def __call__(self, graph: fx.Graph) -> None:
        """Fuses the pairs of ``graph`` in place; see :func:`spfast.apply` for what it raises."""
        self.result = fuse(graph, self.config, self._rules())

    def applicability(self, range: Range) -> Applicability:
        """Whether graphs of ``range`` may be changed at all: thresholds are asked pair by pair."""
        refused = split_applicability(self.config, range)
        if refused is not None:
            return refused
        return Applicability(True, "each pair is looked up in the thresholds by itself")
