"""torch's functional collectives, with norms as aten writes them."""

from __future__ import annotations

import torch

from spfast.patterns.blocks import AddBlock, Block, register_rules
from spfast.patterns.dialect import CollectiveFamily, Dialect
from spfast.patterns.fp8 import QUANTS
from spfast.patterns.registry import Registry
from spfast.patterns.rmsnorm import NARROWED, NORMS, cast
from spfast.patterns.values import Captures, Value, ops

__all__ = ["DIALECT", "register"]

DIALECT = Dialect(
    "functional",
    (
        CollectiveFamily(
            name="functional",
            all_reduce="_c10d_functional.all_reduce.default",
            wait="_c10d_functional.wait_tensor.default",
            reduce_op=1,
            group=2,
            reduce_scatter="_c10d_functional.reduce_scatter_tensor.default",
            reduce_scatter_args=("input", "reduce_op", "world_size", "group"),
            all_gather="_c10d_functional.all_gather_into_tensor.default",
            all_gather_args=("input", "world_size", "group"),
            in_place="_c10d_functional.all_reduce_.default",
            coalesced="_c10d_functional.all_reduce_coalesced.default",
            coalesced_in_place="_c10d_functional.all_reduce_coalesced_.default",
        ),
    ),
)


def _after_sum(norm: Block) -> AddBlock:
    def add_norm(x: Value, c: Captures) -> tuple[Value, Value]:
        residual = ops.aten.add.Tensor(c.rows("residual"), x)
        return norm(residual, c), residual

    return add_norm


def _after_wide_sum(norm: Block, keeps_residual: bool) -> AddBlock:
    """Adds the residual in float32, as vLLM's native norm does; the sum may be cast back."""

    def add_norm(x: Value, c: Captures) -> tuple[Value, Value]:
        wide = ops.aten.add.Tensor(cast(x, torch.float32), c.rows("residual"))
        normed = norm(wide, c)
        return normed, cast(wide, c.residual_dtype) if keeps_residual else wide

    return add_norm


ADD_NORMS: tuple[AddBlock, ...] = (
    *map(_after_sum, NORMS),
    *(_after_wide_sum(norm, keeps) for norm in NARROWED for keeps in (False, True)),
)


def register(registry: Registry) -> None:
    """Adds the dialect and its four rules.

    A rule starts from the reduced value, whichever collective yields it. So these rules also match
    in vLLM's graphs where its norms are decomposed.
    """
    registry.add_dialect(DIALECT)
    register_rules(
        registry,
        DIALECT.name,
        norms=NORMS,
        add_norms=ADD_NORMS,
        quants=QUANTS,
    )
