"""spfast: finds and rewrites subgraphs of torch.fx graphs at native speed.

The main job is sequence parallelism for tensor-parallel models: :func:`apply`, or
:class:`SequenceParallelismPass` inside ``torch.compile``. :func:`explain` says why an all_reduce
was left, :class:`NodeTable` carries a graph in a file, :mod:`spfast.patterns` takes further rules,
and :mod:`spfast.pattern_matcher` stands in for ``torch._inductor.pattern_matcher``.
"""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from spfast.base.versions import check_torch, found_torch

# This comes before any use of torch that an older torch may not support.
check_torch(found_torch())

from spfast._core import version as __version__  # noqa: E402
from spfast.errors import (  # noqa: E402
    ConfigError,
    FileFormatError,
    GraphError,
    InternalError,
    PatternError,
    RankMismatchError,
    SpfastError,
    VerificationError,
)

if TYPE_CHECKING:
    from spfast.api import apply
    from spfast.applicability import Applicability
    from spfast.async_tp import enable_async_tp
    from spfast.config import SequenceParallelConfig
    from spfast.consistency import check_ranks_agree, fingerprint
    from spfast.explanation import Explanation, explain
    from spfast.pairs import AsyncTP, FusedPair, LeftPair
    from spfast.passes import AsyncTPPass, NoOpEliminationPass, SequenceParallelismPass
    from spfast.ranges import Range
    from spfast.recent import last_results
    from spfast.result import Result, SkippedSite, Timings
    from spfast.table import NodeTable
    from spfast.trust import Assumption
    from spfast.verifier import Problem, Snapshot, Verification, snapshot, verify

__all__ = [
    "Applicability",
    "Assumption",
    "AsyncTP",
    "AsyncTPPass",
    "ConfigError",
    "Explanation",
    "FileFormatError",
    "FusedPair",
    "GraphError",
    "InternalError",
    "LeftPair",
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
    "enable_async_tp",
    "explain",
    "fingerprint",
    "last_results",
    "snapshot",
    "verify",
]

# These names are imported when they are first asked for. torch takes seconds to load, and a command
# line with a wrong argument, or a plugin that is off, does not need it.
_LAZY = {
    "Applicability": "applicability",
    "Assumption": "trust",
    "AsyncTP": "pairs",
    "AsyncTPPass": "passes",
    "Explanation": "explanation",
    "FusedPair": "pairs",
    "LeftPair": "pairs",
    "NoOpEliminationPass": "passes",
    "NodeTable": "table",
    "Problem": "verifier",
    "Range": "ranges",
    "Result": "result",
    "SequenceParallelConfig": "config",
    "SequenceParallelismPass": "passes",
    "SkippedSite": "result",
    "Snapshot": "verifier",
    "Timings": "result",
    "Verification": "verifier",
    "apply": "api",
    "check_ranks_agree": "consistency",
    "enable_async_tp": "async_tp",
    "explain": "explanation",
    "fingerprint": "consistency",
    "last_results": "recent",
    "snapshot": "verifier",
    "verify": "verifier",
}
# Modules that have always been there after ``import spfast``.
_MODULES = frozenset(
    {
        "api",
        "applicability",
        "config",
        "consistency",
        "pairs",
        "passes",
        "patterns",
        "ranges",
        "result",
        "table",
        "thresholds",
        "trust",
        "verifier",
    }
)
# Modules that have moved. Their old names work for one release.
_MOVED = {"fields": "base.fields", "rules": "run.rules"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"spfast.{name}")
    if name in _MOVED:
        moved = f"spfast.{_MOVED[name]}"
        warnings.warn(f"spfast.{name} is now {moved}", DeprecationWarning, stacklevel=2)
        return importlib.import_module(moved)
    if name not in _LAZY:
        raise AttributeError(f"module 'spfast' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"spfast.{_LAZY[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


if os.environ.get("SPFAST_PATTERN_MATCHER") == "1":
    # This puts the matcher behind Inductor's passes, for code that cannot change its import.
    import spfast.integrations.inductor  # noqa: F401
