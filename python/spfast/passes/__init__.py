"""The passes, each a ``torch._inductor`` custom graph pass."""

from spfast.passes.async_tp import AsyncTPPass
from spfast.passes.noop_elimination import NoOpEliminationPass
from spfast.passes.sequence_parallelism import SequenceParallelismPass

__all__ = ["AsyncTPPass", "NoOpEliminationPass", "SequenceParallelismPass"]
