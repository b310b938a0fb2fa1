"""What the package knows of torch's operators by name, each stated once. Views are the core's.

Verifier, reference and test kit have lists of their own, with which this one is checked.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from spfast import _core
from spfast.fxgraph.targets import resolve

__all__ = ["COPIES", "SIZES", "SIZE_ARITHMETIC", "VIEWS"]

VIEWS: frozenset[Any] = frozenset(map(resolve, _core.views()))
"""Operators that yield the same elements in the same order; the sizes are argument 1."""

COPIES: frozenset[Any] = frozenset(map(resolve, _core.copies()))
"""Operators that yield the same elements in the same sizes."""

SIZES: frozenset[Any] = frozenset({torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default})
"""Operators that read how large a value is."""

SIZE_ARITHMETIC: frozenset[Any] = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod}
)
"""Functions that compute sizes from sizes."""
