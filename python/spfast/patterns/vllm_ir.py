"""vLLM's graphs since it writes norms as operators of its IR."""

from __future__ import annotations

from spfast.patterns.blocks import register_rules
from spfast.patterns.building import either
from spfast.patterns.dialect import CollectiveFamily, Dialect
from spfast.patterns.fp8 import QUANTS
from spfast.patterns.registry import Registry
from spfast.patterns.values import Captures, Value, ops

__all__ = ["COLLECTIVES", "DIALECT", "register"]

COLLECTIVES = CollectiveFamily(
    name="vllm",
    all_reduce="vllm.all_reduce.default",
    wait=None,
    reduce_op=-1,
    group=1,
    reduce_scatter="vllm.reduce_scatter.default",
    reduce_scatter_args=("input", 0, "world_size", "group"),
    all_gather="vllm.all_gather.default",
    all_gather_args=("input", 0, "world_size", "group"),
)
DIALECT = Dialect("vllm_ir", (COLLECTIVES,))


def _norm(x: Value, c: Captures) -> Value:
    return ops.vllm_ir.rms_norm(x, c.weight, c.epsilon)


def _add_norm(x: Value, c: Captures) -> tuple[Value, Value]:
    arguments = (x, c.rows("residual"), c.weight, c.epsilon)
    both = either(
        ops.vllm_ir.fused_add_rms_norm(*arguments),
        ops.vllm_ir.fused_add_rms_norm.maybe_inplace(*arguments),
    )
    return both[0], both[1]


def register(registry: Registry) -> None:
    """Adds the dialect and its four rules."""
    registry.add_dialect(DIALECT)
    register_rules(registry, DIALECT.name, norms=[_norm], add_norms=[_add_norm], quants=QUANTS)
