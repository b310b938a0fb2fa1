"""The exceptions that spfast raises, in one tree.

Bad input is both a :class:`SpfastError` and a :class:`ValueError`; a failure that is not the
caller's is both a :class:`SpfastError` and a :class:`RuntimeError`. Every message is one sentence
that names the value and the fix.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "FileFormatError",
    "GraphError",
    "InternalError",
    "PatternError",
    "RankMismatchError",
    "SpfastError",
    "VerificationError",
]


class SpfastError(Exception):
    """Base of everything that spfast raises on purpose.

    Example:
        >>> from spfast.config import SequenceParallelConfig
        >>> try:
        ...     SequenceParallelConfig(tp_size=0)
        ... except SpfastError as error:
        ...     print(type(error).__name__)
        ConfigError
    """


class ConfigError(SpfastError, ValueError):
    """A field of a configuration has a value that cannot be used, or is missing where needed."""


class GraphError(SpfastError, ValueError):
    """The object given as a graph is not one, or is not well formed."""


class FileFormatError(SpfastError, ValueError):
    """A file is not a node table, is damaged, or was written by a newer version."""


class PatternError(SpfastError, ValueError):
    """A pattern or a rule cannot be registered or compiled."""


class VerificationError(SpfastError, RuntimeError):
    """A rewritten graph could not be proved equal to the graph before the rewrite."""


class RankMismatchError(SpfastError, RuntimeError):
    """The ranks of a group are about to compile different graphs, and would wait for each other."""


class InternalError(SpfastError, RuntimeError):
    """A broken invariant inside spfast: a bug to report, never the caller's fault."""
