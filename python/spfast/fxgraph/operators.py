"""What the package knows of torch's operators by name, each said once; views the core says.

Verifier, reference and test kit have lists of their own: they are what this one is checked with.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from spfast import _core
from spfast.fxgraph.targets import resolve

__all__ = ["COPIES", "SIZES", "SIZE_ARITHMETIC", "VIEWS"]

VIEWS: frozenset[Any] = frozenset(map(resolve, _core.views()))
"""The same elements in the same order; the sizes are argument 1."""

COPIES: frozenset[Any] = frozenset(map(resolve, _core.copies()))
"""The same elements in the same sizes."""

SIZES: frozenset[Any] = frozenset({torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default})
"""What reads how large a value is."""

SIZE_ARITHMETIC: frozenset[Any] = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod}
)
"""What computes sizes from sizes."""
