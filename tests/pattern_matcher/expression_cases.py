"""For each kind of pattern expression: a pattern, a model that it matches, one that it must not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import pattern_matcher as torch_matcher

aten = torch.ops.aten
MINDS_UNDECLARED = hasattr(torch_matcher, "_has_undeclared_non_default_kwarg")
Pattern = Callable[[Any], Any]


def add(pm: Any, *args: Any, **kwargs: Any) -> Any:
    return pm.CallFunction(aten.add.Tensor, *args, **kwargs)


# name -> (pattern, model that matches once, model that must not match)
CASES: dict[str, tuple[Pattern, Any, Any]] = {
    "Arg": (
        lambda pm: add(pm, pm.Arg(), pm.Arg()),
        lambda x, y: aten.add(x, y),
        lambda x, y: aten.sub(x, y),
    ),
    "KeywordArg twice, same node": (
        lambda pm: add(pm, pm.KeywordArg("a"), pm.KeywordArg("a")),
        lambda x, y: aten.add(x, x),
        lambda x, y: aten.add(x, y),
    ),
    "KeywordArg takes a literal": (
        lambda pm: add(pm, pm.KeywordArg("a"), pm.KeywordArg("b")),
        lambda x, y: aten.add(x, 2.5),
        lambda x, y: aten.mul(x, 2.5),
    ),
    "ExclusiveKeywordArg": (
        lambda pm: add(pm, pm.ExclusiveKeywordArg("a"), pm.ExclusiveKeywordArg("b")),
        lambda x, y: aten.add(x, y),
        lambda x, y: aten.add(x, x),
    ),
    "Ignored": (
        lambda pm: add(pm, pm.Arg(), pm.Ignored()),
        lambda x, y: aten.add(x, 3),
        lambda x, y: aten.mul(x, 3),
    ),
    "literal int": (
        lambda pm: add(pm, pm.Arg(), 3),
        lambda x, y: aten.add(x, 3),
        lambda x, y: aten.add(x, 4),
    ),
    "literal int given as float": (
        lambda pm: add(pm, pm.Arg(), 3.0),
        lambda x, y: aten.add(x, 3),
        lambda x, y: aten.add(x, 3.5),
    ),
    "literal True equals 1": (
        lambda pm: add(pm, pm.Arg(), True),
        lambda x, y: aten.add(x, 1),
        lambda x, y: aten.add(x, 2),
    ),
    "a literal where a node is": (
        lambda pm: add(pm, pm.Arg(), 3),
        lambda x, y: aten.add(x, 3),
        lambda x, y: aten.add(x, y),
    ),
    "a call where a literal is": (
        lambda pm: add(pm, pm.Arg(), pm.CallFunction(aten.relu.default, pm.Arg())),
        lambda x, y: aten.add(x, aten.relu(y)),
        lambda x, y: aten.add(aten.relu(x), 3),
    ),
    "list of literals": (
        lambda pm: pm.CallFunction(aten.view.default, pm.Arg(), [8, 4]),
        lambda x, y: aten.view(x, [8, 4]),
        lambda x, y: aten.view(x, [4, 8]),
    ),
    "list of another length": (
        lambda pm: pm.CallFunction(aten.view.default, pm.Arg(), [8, 4]),
        lambda x, y: aten.view(x, [8, 4]),
        lambda x, y: aten.view(x, [8, 2, 2]),
    ),
    "tuple and list are one": (
        lambda pm: pm.CallFunction(aten.view.default, pm.Arg(), (8, 4)),
        lambda x, y: aten.view(x, [8, 4]),
        lambda x, y: aten.view(x, [32]),
    ),
    "a capture for a whole list": (
        lambda pm: pm.CallFunction(aten.view.default, pm.Arg(), pm.KeywordArg("sizes")),
        lambda x, y: aten.view(x, [8, 4]),
        lambda x, y: aten.permute(x, [1, 0]),
    ),
    "list of patterns": (
        lambda pm: pm.CallFunction(aten.cat.default, [pm.Arg(), pm.KeywordArg("b")], 1),
        lambda x, y: aten.cat([x, y], 1),
        lambda x, y: aten.cat([x, y, x], 1),
    ),
    "literal after a list of patterns": (
        lambda pm: pm.CallFunction(aten.cat.default, [pm.Arg(), pm.KeywordArg("b")], 1),
        lambda x, y: aten.cat([x, y], 1),
        lambda x, y: aten.cat([x, y], 0),
    ),
    "None in a list": (
        lambda pm: pm.CallFunction(aten.index.Tensor, pm.Arg(), [None, pm.Arg()]),
        lambda x, y: aten.index(x, [None, aten.argmax(y, 1)]),
        lambda x, y: aten.index(x, [aten.argmax(y, 1)]),
    ),
    "None as a literal": (
        lambda pm: pm.CallFunction(aten.clamp.default, pm.Arg(), None, 2.0),
        lambda x, y: aten.clamp(x, None, 2.0),
        lambda x, y: aten.clamp(x, 1.0, 2.0),
    ),
    "fewer arguments than the node": (
        lambda pm: pm.CallFunction(aten.sum.dim_IntList, pm.Arg(), [1]),
        lambda x, y: aten.sum.dim_IntList(x, [1]),
        lambda x, y: aten.sum.dim_IntList(x, [1], True),
    ),
    "keyword that the node has": (
        lambda pm: add(pm, pm.Arg(), pm.Arg(), alpha=2),
        lambda x, y: aten.add(x, y, alpha=2),
        lambda x, y: aten.add(x, y, alpha=3),
    ),
    # Since torch 2.15 it may only say what is the default anyway.
    "keyword that the pattern leaves out": (
        lambda pm: add(pm, pm.Arg(), pm.Arg()),
        lambda x, y: aten.add(x, y, alpha=1 if MINDS_UNDECLARED else 2),
        lambda x, y: (aten.add if MINDS_UNDECLARED else aten.sub)(x, y, alpha=2),
    ),
    "keyword that the node leaves to its default": (
        lambda pm: add(pm, pm.Arg(), pm.Arg(), alpha=pm.KeywordArg("alpha")),
        lambda x, y: aten.add(x, y),
        lambda x, y: aten.sub(x, y),
    ),
    "dtype keyword": (
        lambda pm: pm.CallFunction(aten._to_copy.default, pm.Arg(), dtype=torch.float16),
        lambda x, y: aten._to_copy(x, dtype=torch.float16),
        lambda x, y: aten._to_copy(x, dtype=torch.float64),
    ),
    "several targets": (
        lambda pm: pm.CallFunction([aten.add.Tensor, aten.sub.Tensor], pm.Arg(), pm.Arg()),
        lambda x, y: aten.sub(x, y),
        lambda x, y: aten.mul(x, y),
    ),
    "an overload packet": (
        lambda pm: pm.CallFunction(aten.add, pm.Arg(), pm.Arg()),
        lambda x, y: aten.add.Scalar(x, 2),
        lambda x, y: aten.mul(x, 2),
    ),
    "one user": (
        lambda pm: add(pm, pm.CallFunction(aten.relu.default, pm.Arg()), pm.Arg()),
        lambda x, y: aten.add(aten.relu(x), y),
        lambda x, y: (lambda r: (aten.add(r, y), aten.mul(r, y)))(aten.relu(x)),
    ),
    "exactly two users": (
        lambda pm: add(pm, pm.CallFunction(aten.relu.default, pm.Arg(), _users=2), pm.Arg()),
        lambda x, y: (lambda r: (aten.add(r, y), aten.mul(r, y)))(aten.relu(x)),
        lambda x, y: aten.add(aten.relu(x), y),
    ),
    "the output's users play no part": (
        lambda pm: add(pm, pm.Arg(), pm.Arg()),
        lambda x, y: (lambda r: (aten.neg(r), aten.mul(r, y)))(aten.add(x, y)),
        lambda x, y: (lambda r: (aten.neg(r), aten.mul(r, y)))(aten.sub(x, y)),
    ),
    "a shared subpattern": (
        lambda pm: (lambda r: pm.CallFunction(aten.mul.Tensor, r, r))(
            pm.CallFunction(aten.relu.default, pm.KeywordArg("x"))
        ),
        lambda x, y: (lambda r: aten.mul(r, r))(aten.relu(x)),
        lambda x, y: aten.mul(aten.relu(x), aten.relu(y)),
    ),
    "a shared subpattern two apart": (
        lambda pm: (
            lambda r: pm.CallFunction(aten.mul.Tensor, pm.CallFunction(aten.neg.default, r), r)
        )(pm.CallFunction(aten.relu.default, pm.KeywordArg("x"), _users=2)),
        lambda x, y: (lambda r: aten.mul(aten.neg(r), r))(aten.relu(x)),
        lambda x, y: (lambda r: (aten.mul(aten.neg(r), aten.relu(y)), aten.neg(r)))(aten.relu(x)),
    ),
    "VarArgs": (
        lambda pm: pm.CallFunctionVarArgs(aten.cat.default),
        lambda x, y: aten.cat([x, y, x], 1),
        lambda x, y: aten.stack([x, y, x], 1),
    ),
    "VarArgs inside": (
        lambda pm: pm.CallFunction(aten.relu.default, pm.CallFunctionVarArgs([aten.add, aten.mul])),
        lambda x, y: aten.relu(aten.add(x, y, alpha=2)),
        lambda x, y: (lambda s: (aten.relu(s), aten.neg(s)))(aten.add(x, y)),
    ),
    "ListOf": (
        lambda pm: pm.CallFunction(
            aten.cat.default, pm.ListOf(pm.CallFunction(aten.relu.default, pm.Arg())), 1
        ),
        lambda x, y: aten.cat([aten.relu(x), aten.relu(y)], 1),
        lambda x, y: aten.cat([aten.relu(x), aten.neg(y)], 1),
    ),
    "ListOf, partial": (
        lambda pm: pm.CallFunction(
            aten.cat.default,
            pm.ListOf(pm.CallFunction(aten.relu.default, pm.Arg()), partial=True),
            1,
        ),
        lambda x, y: aten.cat([aten.neg(x), aten.relu(y)], 1),
        lambda x, y: aten.cat([aten.neg(x), aten.neg(y)], 1),
    ),
    "ListOf with keywords that agree": (
        lambda pm: pm.CallFunction(
            aten.cat.default,
            pm.ListOf(pm.CallFunction(aten.add.Tensor, pm.Arg(), pm.KeywordArg("shift"))),
            1,
        ),
        lambda x, y: aten.cat([aten.add(x, 1.0), aten.add(y, 1.0)], 1),
        lambda x, y: aten.cat([aten.add(x, 1.0), aten.add(y, 2.0)], 1),
    ),
    "ListOf over one shared value": (
        lambda pm: pm.CallFunction(
            aten.cat.default,
            pm.ListOf(
                pm.CallFunction(
                    operator.getitem,
                    pm.CallFunction(
                        aten.split.Tensor,
                        pm.KeywordArg("x"),
                        pm.Ignored(),
                        pm.Ignored(),
                        _users=pm.MULTIPLE,
                    ),
                    pm.Ignored(),
                )
            ),
            1,
        ),
        lambda x, y: aten.cat(list(aten.split(x, 4, 1)), 1),
        lambda x, y: aten.cat([aten.split(x, 4, 1)[0], aten.split(y, 4, 1)[1]], 1),
    ),
    "getitem with its index": (
        lambda pm: pm.CallFunction(
            operator.getitem, pm.CallFunctionVarArgs(aten.split.Tensor, pm.MULTIPLE), 1
        ),
        lambda x, y: aten.split(x, 4, 1)[1],
        lambda x, y: aten.split(x, 8, 1)[0],
    ),
    "RepeatedExpr": (
        lambda pm: pm.RepeatedExpr(
            pm.CallFunction(
                operator.getitem,
                pm.CallFunction(
                    aten.split_with_sizes.default,
                    pm.KeywordArg("x"),
                    pm.Ignored(),
                    pm.Ignored(),
                    _users=pm.MULTIPLE,
                ),
                pm.Ignored(),
                _users=pm.MULTIPLE,
            )
        ),
        # The candidate is each getitem: seen three times, once for each.
        lambda x, y: (lambda p: aten.add(p[0], p[1]))(aten.split_with_sizes(x, [4, 4], 1)),
        lambda x, y: (lambda p: aten.add(p[0], p[1]))(aten.split(x, 4, 1)),
    ),
    "MultiOutputPattern": (
        lambda pm: (
            lambda r: pm.MultiOutputPattern(
                [
                    pm.CallFunction(aten.neg.default, r),
                    pm.CallFunction(aten.mul.Tensor, r, pm.KeywordArg("b")),
                ]
            )
        )(pm.CallFunction(aten.relu.default, pm.KeywordArg("a"), _users=2)),
        lambda x, y: (lambda r: (aten.mul(r, y), aten.neg(r)))(aten.relu(x)),
        lambda x, y: (lambda r: (aten.mul(r, y), aten.sin(r)))(aten.relu(x)),
    ),
    "MultiOutputPattern with None": (
        lambda pm: (
            lambda r: pm.MultiOutputPattern(
                [pm.CallFunction(aten.neg.default, r), None, pm.CallFunction(aten.sin.default, r)]
            )
        )(pm.CallFunction(aten.relu.default, pm.KeywordArg("a"), _users=2)),
        lambda x, y: (lambda r: (aten.sin(r), aten.neg(r)))(aten.relu(x)),
        lambda x, y: (aten.sin(aten.relu(x)), aten.neg(aten.relu(y))),
    ),
    "MultiOutputPattern, the first anchor fails": (
        lambda pm: (
            lambda r: pm.MultiOutputPattern(
                [pm.CallFunction(aten.neg.default, r), pm.CallFunction(aten.add.Tensor, r, 2)]
            )
        )(pm.CallFunction(aten.relu.default, pm.KeywordArg("a"), _users=3)),
        lambda x, y: (lambda r: (aten.add(r, 1), aten.add(r, 2), aten.neg(r)))(aten.relu(x)),
        lambda x, y: (lambda r: (aten.add(r, 1), aten.add(r, 3), aten.neg(r)))(aten.relu(x)),
    ),
}
