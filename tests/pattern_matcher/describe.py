"""A graph as plain data without names, so that two graphs can be compared to the last detail.

Nodes are numbered in graph order: order, wiring, literals (with their types) and all metadata take
part; names do not. Symbolic sizes are compared by expression. Which values share a storage is part
of the description.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

import torch
import torch.fx as fx
from torch._inductor import pattern_matcher as torch_matcher

# Torch computes this lazily, for the nodes that a match happened to look at; compared by `regions`.
LAZY = "mutation_region_id"
# Counts autograd's calls in this process.
SEQUENCE = "seq_nr"


def describe(graph: fx.Graph) -> list[dict[str, Any]]:
    """One entry a node: op, target, args, kwargs, users, ``meta/...`` for each key of its meta."""
    number = {node: i for i, node in enumerate(graph.nodes)}
    storages: dict[int, int] = {}
    entries = []
    for node in graph.nodes:
        entry: dict[str, Any] = {
            "op": node.op,
            "target": _target(node),
            "args": _value(tuple(node.args), number),
            "kwargs": _value(dict(node.kwargs), number),
            "users": sorted(number[user] for user in node.users),
            "erased": node._erased,
        }
        for key in sorted(node.meta, key=str):
            if key != LAZY:
                entry[f"meta/{key}"] = _meta(key, node.meta[key], number)
        if "val" in node.meta:
            entry["storage"] = _storages(node.meta["val"], storages)
        entries.append(entry)
    return _rename_unbacked(entries)


def regions(graph: fx.Graph) -> list[int]:
    """The mutation region of each node, as any later pass would read it."""
    return [torch_matcher.get_mutation_region_id(graph, node) for node in graph.nodes]


def effects(graph: fx.Graph) -> list[str]:
    """The targets that mutate something or talk to other ranks, in order."""
    found = []
    for node in graph.nodes:
        if node.op == "call_function" and (torch_matcher.is_mutation_op(node) or node.is_impure()):
            found.append(_target(node))
    return found


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str | None:
    """The first place where two descriptions differ, or None."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        for key in dict.fromkeys((*a, *b)):
            left, right = a.get(key, "<absent>"), b.get(key, "<absent>")
            if left != right:
                return f"node {i} ({b['target']}), {key}: {left!r} instead of {right!r}"
    if len(ours) != len(theirs):
        return f"{len(ours)} nodes instead of {len(theirs)}"
    return None


def describe_val(value: Any) -> Any:
    """A ``meta["val"]`` as plain data."""
    return _value(value, {})


def _target(node: fx.Node) -> str:
    target = node.target
    if node.op in ("placeholder", "output"):
        return ""
    if isinstance(target, str):
        return target
    if isinstance(target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"


def _meta(key: str, value: Any, number: dict[fx.Node, int]) -> Any:
    if key == SEQUENCE:
        return "present"
    if key == "from_node":
        return [_source(source) for source in value]
    return _value(value, number)


def _source(source: Any) -> Any:
    # Names are left out here as everywhere: the target, the pass and what it did remain.
    actions = [str(action) for action in source.action]
    inner = [_source(s) for s in source.from_node]
    return (str(source.target), source.pass_name, actions, inner)


def _value(value: Any, number: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return f"%{number[value]}" if value in number else f"%foreign({value.name})"
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return ("sym", _size(value))
    if isinstance(value, dict):
        return {str(k): _value(v, number) for k, v in value.items()}
    if isinstance(value, torch.fx.passes.shape_prop.TensorMetadata):
        return ("TensorMetadata", *(_value(field, number) for field in value))
    if isinstance(value, torch.Size):
        return tuple(_size(d) for d in value)
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, *(_value(v, number) for v in value))
    if isinstance(value, slice):
        return ("slice", *(_value(v, number) for v in (value.start, value.stop, value.step)))
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return (type(value).__name__, repr(value))
    return str(value)


def _tensor(value: torch.Tensor) -> Any:
    dense = value.layout == torch.strided
    return (
        type(value).__name__,
        tuple(_size(d) for d in value.shape),
        tuple(_size(d) for d in value.stride()) if dense else None,
        _size(value.storage_offset()) if dense else None,
        str(value.dtype),
        str(value.device),
        value.requires_grad,
    )


def _size(size: Any) -> Any:
    if isinstance(size, (bool, int, float)):
        return size
    expr = size.node.expr
    return int(expr) if getattr(expr, "is_Integer", False) else str(expr)


def _storages(value: Any, seen: dict[int, int]) -> Any:
    if isinstance(value, torch.Tensor):
        # A storage's address is its own for as long as the graph keeps the value alive.
        return seen.setdefault(value.untyped_storage()._cdata, len(seen))
    if isinstance(value, (list, tuple)):
        return [_storages(v, seen) for v in value]
    return None


_UNBACKED = re.compile(r"\b[uz]u?f?\d+\b")


def _rename_unbacked(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Unbacked symbols are numbered by how often something was traced: number them by appearance.
    if not _UNBACKED.search(repr(entries)):
        return entries
    names: dict[str, str] = {}

    def rename(value: Any) -> Any:
        if isinstance(value, str):
            return _UNBACKED.sub(lambda m: names.setdefault(m[0], f"unbacked{len(names)}"), value)
        if isinstance(value, dict):
            return {k: rename(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(rename(v) for v in value)
        return value

    return [
        {k: rename(v) if k.startswith(("meta/", "args", "kwargs")) else v for k, v in e.items()}
        for e in entries
    ]


def signatures(graph: fx.Graph) -> Counter[str]:
    """The nodes without their order: each with all that its inputs are, and how often it occurs."""
    found: dict[str, str] = {}
    for i, entry in enumerate(describe(graph)):
        left_out = ["users", "storage"]
        if entry["target"] == "aten.sym_size.int":
            # Torch makes it where a size is first asked for, which its caches decide.
            left_out.append("meta/original_aten")
        kept = {k: v for k, v in entry.items() if k not in left_out}
        inputs = re.sub(r"%\d+", lambda m: found[m[0]], repr((kept["args"], kept["kwargs"])))
        place = i if entry["op"] == "placeholder" else 0
        rest = [(k, v) for k, v in kept.items() if k not in ("args", "kwargs")]
        text = repr((place, inputs, rest))
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        found[f"%{i}"] = f"{entry['target']}:{digest}"
    return Counter(found.values())
