"""torch's functional collectives, with norms as aten writes them."""

from __future__ import annotations

from spfast.patterns.blocks import AddBlock, Block, register_rules
from spfast.patterns.fp8 import QUANTS
from spfast.patterns.model import CollectiveFamily
from spfast.patterns.registry import Dialect, Registry
from spfast.patterns.rmsnorm import NORMS
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
        ),
    ),
)


def _after_add(norm: Block) -> AddBlock:
    def add_norm(x: Value, c: Captures) -> tuple[Value, Value]:
        residual = ops.aten.add.Tensor(c.rows("residual"), x)
        return norm(residual, c), residual

    return add_norm


def register(registry: Registry) -> None:
    """Adds the dialect and its four rules.

    A rule starts from the reduced value, whichever collective yields it: these also cover vLLM's
    graphs where its norms are decomposed.
    """
    registry.add_dialect(DIALECT)
    register_rules(
        registry,
        DIALECT.name,
        norms=NORMS,
        add_norms=[_after_add(norm) for norm in NORMS],
        quants=QUANTS,
    )
