"""spfast: finds and rewrites subgraphs of torch.fx graphs at native speed.

The main job is sequence parallelism for tensor-parallel models: :func:`apply`, or
:class:`SequenceParallelismPass` inside ``torch.compile``. :func:`explain` says why an all_reduce
was left, :class:`NodeTable` carries a graph in a file, :mod:`spfast.patterns` takes further rules,
and :mod:`spfast.pattern_matcher` stands in for ``torch._inductor.pattern_matcher``.
"""

import os

from spfast._core import version as __version__
from spfast.api import apply
from spfast.config import Applicability, Range, SequenceParallelConfig
from spfast.consistency import check_ranks_agree, fingerprint
from spfast.errors import (
    ConfigError,
    FileFormatError,
    GraphError,
    InternalError,
    PatternError,
    RankMismatchError,
    SpfastError,
    VerificationError,
)
from spfast.explain import Explanation, explain
from spfast.passes import NoOpEliminationPass, SequenceParallelismPass
from spfast.result import Result, SkippedSite, Timings
from spfast.table import NodeTable
from spfast.trust import Assumption
from spfast.verifier import Problem, Snapshot, Verification, snapshot, verify

__all__ = [
    "Applicability",
    "Assumption",
    "ConfigError",
    "Explanation",
    "FileFormatError",
    "GraphError",
    "InternalError",
    "NoOpEliminationPass",
    "NodeTable",
    "PatternError",
    "Problem",
    "Range",
    "RankMismatchError",
    "Result",
    "SequenceParallelConfig",
    "SequenceParallelismPass",
    "SkippedSite",
    "Snapshot",
    "SpfastError",
    "Timings",
    "Verification",
    "VerificationError",
    "__version__",
    "apply",
    "check_ranks_agree",
    "explain",
    "fingerprint",
    "snapshot",
    "verify",
]

if os.environ.get("SPFAST_PATTERN_MATCHER") == "1":
    # For code that cannot change its import: this puts the matcher behind Inductor's passes.
    import spfast.integrations.inductor  # noqa: F401
