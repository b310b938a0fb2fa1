"""The four rules, put together from the building blocks of a dialect.

A block is a function that writes one part of a pattern: a norm, a sum and its norm, a quantisation.
A dialect says which blocks it knows; each combination is a variant of one of the four rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spfast.patterns.registry import Registry
from spfast.patterns.values import Captures, Value

__all__ = ["AddBlock", "Block", "register_rules"]

Block = Callable[[Value, Captures], Value]
AddBlock = Callable[[Value, Captures], tuple[Value, Value]]


def register_rules(
    registry: Registry,
    dialect: str,
    *,
    norms: Sequence[Block],
    add_norms: Sequence[AddBlock],
    quants: Sequence[Block],
) -> None:
    """Registers the four rules of a dialect.

    Several rules may match at one all_reduce. Then a rule with a quantisation beats one without,
    and a norm of the sum with the residual beats a norm of the reduced value.

    Args:
        registry: the registry to add the rules to.
        dialect: a dialect that the registry knows.
        norms: blocks from the reduced value to the normed one.
        add_norms: blocks from the reduced value to the normed one and the new residual.
        quants: blocks from the normed value to the quantised one.
    """
    first: dict[str, Sequence[object]] = {"norm": norms}
    middle: dict[str, Sequence[object]] = {"add_norm": add_norms}
    quantised: dict[str, Sequence[object]] = {"quant": quants}

    def add(
        name: str,
        function: Callable[..., object],
        priority: int,
        variants: Mapping[str, Sequence[object]],
        quantises: bool = False,
    ) -> None:
        register = registry.register(
            name, dialect=dialect, priority=priority, quantises=quantises, variants=variants
        )
        register(function)

    add("first_all_reduce_rms_norm", _first, 0, first)
    add("middle_all_reduce_rms_norm", _middle, 1, middle)
    add("first_all_reduce_rms_norm_static_fp8", _first_fp8, 10, first | quantised, True)
    add("middle_all_reduce_rms_norm_static_fp8", _middle_fp8, 11, middle | quantised, True)


def _first(reduced: Value, c: Captures, *, norm: Block) -> tuple[Value, Value]:
    return norm(reduced, c), reduced


def _middle(reduced: Value, c: Captures, *, add_norm: AddBlock) -> tuple[Value, Value]:
    return add_norm(reduced, c)


def _first_fp8(reduced: Value, c: Captures, *, norm: Block, quant: Block) -> tuple[Value, Value]:
    return quant(norm(reduced, c), c), reduced


def _middle_fp8(
    reduced: Value, c: Captures, *, add_norm: AddBlock, quant: Block
) -> tuple[Value, Value]:
    normed, residual = add_norm(reduced, c)
    return quant(normed, c), residual
