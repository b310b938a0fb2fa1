"""vLLM's int8 operator by the names that a CPU has for its arguments, on a process of its own."""

from __future__ import annotations

import re
from typing import Any

import torch

import spfast
from spfast.patterns import Registry, RowRule, default_registry
from spfast.testing import copy_graph, ops, quantisations
from spfast.verifier import snapshot, verify

NAME = "dynamic_scaled_int8_quant"
WIDTH = 256
BUFFERS = {"scale": (1, torch.float32)}  # and the result, by whatever name
_LIBRARIES: list[Any] = []


def declare(schema: str) -> None:
    """Declares the operator as this process is to have it: no process can have it twice."""
    (compute,) = (each for name, each in quantisations.WRITING if name.startswith(NAME))
    names = [part.split()[-1] for part in schema.split(",")]

    def by_name(*args: Any) -> None:
        given = dict(zip(names, args, strict=True))
        scale, azp, x = (given.pop(name) for name in ("scale", "azp", "input"))
        (result,) = given.values()
        compute(result, x, scale, azp)

    make: Any = torch.library.Library  # torch leaves it untyped
    library = make("_C", "FRAGMENT")
    _LIBRARIES.append(library)
    library.define(f"{NAME}({schema}) -> ()")
    library.impl(NAME, by_name, "CompositeExplicitAutograd")
    torch.library.register_fake(f"_C::{NAME}", lambda *_: None, lib=library)
    ops.declare()


def with_a_rule(buffers: tuple[str, ...]) -> Registry:
    """The rules, with one that takes the operator's arguments of any names for rows."""
    registry = default_registry().copy()
    for outer in ("auto_functionalized", "auto_functionalized_v2"):
        wrapped = f"higher_order.{outer}[_C.{NAME}.default]"
        careless = RowRule(wrapped, "rows", rows=("input",), buffers=buffers)
        registry.register_rowwise(careless, replace=True)
    return registry


def int8(rank: int, world_size: int, schema: str, version: int) -> dict[str, tuple[str, bool]]:
    """A layer with this operator: what is gathered of it, and whether it is proved.

    By the rules as they are, and by one more that takes any names of arguments.
    """
    declare(schema)
    from .quantised_layers import layer, written
    from .test_quantisation import config, gathered, rewritten

    writes = re.findall(r"Tensor! (\w+)", schema)
    buffers = {name: BUFFERS.get(name, (WIDTH, torch.int8)) for name in writes}
    operator = getattr(torch.ops._C, NAME).default
    build = layer(written(operator, version, buffers, azp=None), 8)
    found = {}
    for name, registry in (("as is", default_registry()), ("told", with_a_rule((*writes, "azp")))):
        graph = copy_graph(build.graph)
        spfast.apply(graph, config(1), registry=registry)
        (dtype,) = set(gathered(graph))
        found[name] = (str(dtype), bool(verify(snapshot(build.graph), graph, config(1))))
    if found["as is"][1]:
        rewritten(build, 8)  # every rank computes what it computed
    return found
