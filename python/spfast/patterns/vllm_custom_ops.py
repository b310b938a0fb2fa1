"""vLLM's graphs from before its IR: norms that write to their arguments, functionalised."""

from __future__ import annotations

from spfast.patterns.blocks import register_rules
from spfast.patterns.building import functionalized
from spfast.patterns.dialect import Dialect
from spfast.patterns.fp8 import QUANTS
from spfast.patterns.registry import Registry
from spfast.patterns.values import Captures, Value, ops
from spfast.patterns.vllm_ir import COLLECTIVES

__all__ = ["DIALECT", "register"]

DIALECT = Dialect("vllm_custom_ops", (COLLECTIVES,))


def _norm(x: Value, c: Captures) -> Value:
    call = functionalized(
        ops._C.rms_norm,
        mutates=["result"],
        result=c.buffer("normed"),
        input=x,
        weight=c.weight,
        epsilon=c.epsilon,
    )
    return call["result"]


def _add_norm(x: Value, c: Captures) -> tuple[Value, Value]:
    call = functionalized(
        ops._C.fused_add_rms_norm,
        mutates=["input", "residual"],
        input=x,
        residual=c.rows("residual"),
        weight=c.weight,
        epsilon=c.epsilon,
    )
    return call["input"], call["residual"]


def register(registry: Registry) -> None:
    """Adds the dialect and its four rules."""
    registry.add_dialect(DIALECT)
    register_rules(registry, DIALECT.name, norms=[_norm], add_norms=[_add_norm], quants=QUANTS)
