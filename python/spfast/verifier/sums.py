"""Sums of reductions: a sum over the ranks is linear, so two ways to write one have one term.

A value may be made of reductions over one group by sums, differences, negations and scalings with a
number alone. It is then the reduction of a value that is made of this rank's parts in the same way.
A sum of such a value and another one keeps the two apart, so that another reduction can join the
first. Both graphs are walked with this rule: values that differ only in the order of summation have
one term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from spfast.verifier.context import Context

__all__ = ["regrouped"]

_aten = torch.ops.aten
_ADD, _SUB, _NEG = _aten.add.Tensor, _aten.sub.Tensor, _aten.neg.default
_SCALINGS = frozenset({_aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar})

# Makes the term of the operator at hand with other operands.
Remake = Callable[[Sequence[int]], int]


def regrouped(
    ctx: Context,
    target: Any,
    literals: Sequence[Any],
    operands: Sequence[fx.Node],
    terms: Sequence[int],
    remake: Remake,
) -> int | None:
    """The term of a sum or multiple of reductions, with the reduction outside.

    Args:
        ctx: The walk.
        target: The operator; its result has the shape of each operand.
        literals: What else it is given, by position and by name.
        operands: The nodes that it reads.
        terms: What they hold.
        remake: Makes the term that the operator has with other operands.

    Returns:
        The term; None where the value is no such sum.
    """
    reduced = ctx.store.reduced
    plain = target is _ADD and not literals and len(terms) == 2
    if not any(term in reduced for term in terms):
        if plain and _is_one_dtype(ctx, operands):
            return _added(ctx, terms, remake)
        return None
    if not _is_one_dtype(ctx, operands) or not _are_numbers(literals):
        return None
    if len(terms) == 1:
        if target is not _NEG and not (target in _SCALINGS and len(literals) == 1):
            return None
        part, group = reduced[terms[0]]
        return ctx.store.reduction(remake([part]), "sum", group)
    if len(terms) != 2 or target not in (_ADD, _SUB):
        return None
    one, two = reduced.get(terms[0]), reduced.get(terms[1])
    if one is not None and two is not None:
        if one[1] != two[1]:
            return None
        parts = [one[0], two[0]]
        part = _added(ctx, parts, remake) if plain else remake(parts)
        return ctx.store.reduction(part, "sum", one[1])
    if not plain:
        return None
    rest, joining = (terms[1], terms[0]) if two is None else (terms[0], terms[1])
    earlier = ctx.store.sums.get(rest)
    if earlier is not None and reduced[earlier[1]][1] == reduced[joining][1]:
        rest = earlier[0]
        parts = [reduced[earlier[1]][0], reduced[joining][0]]
        joining = ctx.store.reduction(_added(ctx, parts, remake), "sum", reduced[joining][1])
    term = remake([rest, joining])
    ctx.store.sums[term] = (rest, joining)
    return term


def _added(ctx: Context, terms: Sequence[int], remake: Remake) -> int:
    """The term of a plain sum; under a reduction it is one of addends in any order."""
    total = remake(terms)
    ctx.store.add(total, *terms)
    return total


def _are_numbers(literals: Sequence[Any]) -> bool:
    """Whether all that is given besides tensors is a number that the graph spells out.

    A number that is computed may differ from rank to rank.
    """
    return all(
        isinstance(item, tuple)
        and len(item) == 1
        and isinstance(item[0], tuple)
        and item[0][0] in (int, float)
        for item in literals
    )


def _is_one_dtype(ctx: Context, operands: Sequence[fx.Node]) -> bool:
    """Whether operands and result have one dtype: a cast rounds, so no sum passes through it."""
    nodes = operands if ctx.node is None else (ctx.node, *operands)
    dtypes = {getattr(ctx.vals.get(node), "dtype", None) for node in nodes}
    return len(dtypes) == 1 and None not in dtypes
