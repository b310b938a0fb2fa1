"""What torch says is random is no value that all ranks are proved to have."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import fx

import spfast
from spfast.reference.traits import traits_of
from spfast.testing.builder import TOKENS, GraphBuilder
from spfast.verifier.across import Does, what_it_does

aten, c10d = torch.ops.aten, torch.ops._c10d_functional

# Of these the seed, or the state of the generator, is an operand: they yield what it says.
SEEDED = {
    "_cudnn_init_dropout_state",
    "_fill_mem_eff_dropout_mask_",
    "_fused_sdp_choice",
    "_nested_tensor_softmax_with_shape",
}


def operators() -> Iterator[torch._ops.OpOverload]:
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        space, _, rest = name.partition("::")
        operator_, _, overload = rest.partition(".")
        if space not in ("aten", "prims"):
            continue
        packet = getattr(getattr(torch.ops, space), operator_, None)
        target = None if packet is None else getattr(packet, overload or "default", None)
        if target is not None:
            yield target


def short_name(target: torch._ops.OpOverload) -> str:
    return str(target._schema.name.partition("::")[2])


def tagged() -> Iterator[torch._ops.OpOverload]:
    for target in operators():
        if short_name(target) in SEEDED or "backward" in short_name(target):
            continue
        if torch.Tag.nondeterministic_seeded in target.tags:
            yield target


def argument(declared: torch.Argument, value: fx.Node, probability: float) -> Any:
    """Something of the type that a schema asks for."""
    kind = str(declared.type)
    if declared.name in ("dropout_p", "dropout", "p"):
        return probability
    if kind == "Tensor":
        return value
    plain: dict[str, Any] = {"int": 8, "SymInt": 8, "float": 0.5, "bool": True, "number": 0.5}
    if kind.startswith("List"):
        return [value] if "Tensor" in kind else [8, 16]
    return plain.get(kind)


def sites(target: torch._ops.OpOverload, probability: float = 0.5) -> int:
    """How many sites there are where what the operator yields is added to a reduced value."""
    build = GraphBuilder(tokens=8, dynamic=False)

    def reduced(name: str) -> fx.Node:
        x = build.placeholder(name, (TOKENS, 16), torch.float32, kind="per_rank")
        return build.call(
            c10d.wait_tensor.default, build.call(c10d.all_reduce.default, x, "sum", "tp")
        )

    proved = reduced("x")
    schema = target._schema
    args, kwargs = [], {}
    for declared in schema.arguments:
        given = argument(declared, proved, probability)
        if not declared.kwarg_only:
            args.append(given)
        elif "out" in declared.name:
            kwargs[declared.name] = given
    drawn = build.graph.call_function(target, tuple(args), kwargs)
    val = proved.meta["val"]
    drawn.meta["val"] = val if len(schema.returns) < 2 else (val,) * len(schema.returns)
    if len(schema.returns) > 1:
        drawn = build.graph.call_function(operator.getitem, (drawn, 0))
        drawn.meta["val"] = val
    added = build.call(aten.add.Tensor, reduced("y"), drawn)
    mean = build.call(aten.mean.dim, build.call(aten.mul.Tensor, added, added), [-1], True)
    root = build.call(aten.rsqrt.default, build.call(aten.add.Tensor, mean, 1e-6))
    build.output([build.call(aten.mul.Tensor, added, root), proved])
    config = spfast.SequenceParallelConfig(tp_size=4, tp_rank=1, replicated="prove")
    return int(spfast.apply(build.graph, config))


TAGGED = list(tagged())


@pytest.mark.parametrize("target", TAGGED, ids=str)
def test_what_is_random_is_proved_of_no_rank(target: torch._ops.OpOverload) -> None:
    assert sites(target) == 0
    traits = traits_of(str(target))
    assert not traits.deterministic or traits.dropout is not None


# What they yield is, at least in part, whatever was in the memory before.
UNINITIALISED = [
    each
    for each in operators()
    if any(part in short_name(each) for part in ("empty", "resize", "uninitialized"))
    and not any(part in short_name(each) for part in ("sparse", "copy"))
    and each._overloadname != "out"
    and str(each._schema.returns[0].type if each._schema.returns else "") == "Tensor"
]


@pytest.mark.parametrize("target", UNINITIALISED, ids=str)
def test_what_memory_holds_that_nobody_wrote_is_proved_of_no_rank(
    target: torch._ops.OpOverload,
) -> None:
    assert sites(target) == 0
    assert not traits_of(str(target)).deterministic
    assert what_it_does("call_function", target).does is Does.ANYTHING


# The probability of the quantised one stands elsewhere: it always counts as random.
ATTENTION = [
    each
    for each in TAGGED
    if traits_of(str(each)).dropout is not None and "quantized" not in str(each)
]


@pytest.mark.parametrize("target", ATTENTION, ids=str)
def test_attention_without_dropout_is_what_its_operands_are(
    target: torch._ops.OpOverload,
) -> None:
    names = [each.name for each in target._schema.arguments]
    place = traits_of(str(target)).dropout
    assert place is not None and names[place] == "dropout_p"
    if not target._schema.is_mutable:
        assert sites(target, probability=0.0) == 1
