"""Loads the recorded before/after graphs under data/goldens, and compares graphs up to names.

Each file records what one existing implementation of the pass made of one graph: it is a peer's
result, an independent witness of what the rewrite is expected to be.
"""

from __future__ import annotations

import json
import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._higher_order_ops.auto_functionalize import auto_functionalized
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from spfast.testing import ops

FOLDER = Path(__file__).parents[1] / "data" / "goldens"
CASES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@dataclass(frozen=True)
class Golden:
    """One recorded run of the pass."""

    case: str
    tp_size: int
    tp_rank: int
    group_name: str
    matched_count: int
    before: fx.Graph
    after: fx.Graph


def load_golden(case: str) -> Golden:
    """Loads a case; both graphs carry FakeTensor values of one mode (with a ShapeEnv)."""
    ops.declare()
    record = json.loads((FOLDER / f"{case}.json").read_text())
    reader = _Reader()
    return Golden(
        case,
        record["tp_size"],
        record["tp_rank"],
        record["group_name"],
        record["matched_count"],
        reader.graph(record["before"]),
        reader.graph(record["after"]),
    )


class _Reader:
    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        self.symbols: dict[str, torch.SymInt] = {}

    def graph(self, records: list[dict[str, Any]]) -> fx.Graph:
        graph = fx.Graph()
        nodes: dict[str, fx.Node] = {}
        for record in records:
            target = record["target"]
            node = graph.create_node(
                record["op"],
                self.target(target) if record["op"] == "call_function" else target,
                tuple(self.argument(value, nodes) for value in record["args"]),
                {name: self.argument(value, nodes) for name, value in record["kwargs"].items()},
                name=record["name"],
            )
            assert node.name == record["name"]
            nodes[node.name] = node
            if record["op"] != "output":
                node.meta["val"] = self.value(record["val"])
        graph.lint()
        return graph

    @staticmethod
    def target(name: str) -> Any:
        if name == "auto_functionalized":
            return auto_functionalized
        if name.startswith("_operator."):
            return getattr(operator, name.removeprefix("_operator."))
        found: Any = torch.ops
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def argument(self, value: Any, nodes: Mapping[str, fx.Node]) -> Any:
        if isinstance(value, list):
            return [self.argument(entry, nodes) for entry in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node":
            return nodes[content]
        if kind == "device":
            return torch.device(content)
        if kind == "op":
            return self.target(content)
        if kind in ("dtype", "const"):
            return getattr(torch, content.removeprefix("torch."))
        raise AssertionError(f"unknown argument {value!r}")

    def value(self, record: Any) -> Any:
        if record is None:
            return None
        if isinstance(record, list):
            return tuple(self.value(entry) for entry in record)
        if "sym" in record:
            return self.dim(record["sym"])
        dtype = getattr(torch, record["dtype"].removeprefix("torch."))
        shape = [self.dim(dim) for dim in record["shape"]]
        stride = [self.dim(dim) for dim in record["stride"]]
        with self.mode:
            return torch.empty_strided(shape, stride, dtype=dtype, device="cpu")

    def dim(self, text: int | str) -> Any:
        if isinstance(text, int):
            return text
        names = set(re.findall(r"s\d+", text))
        scope = {name: self.symbol(name) for name in names}
        return eval(
            text, {"__builtins__": {}}, scope
        )  # text of a file of this repository: sizes only

    def symbol(self, name: str) -> torch.SymInt:
        if name not in self.symbols:
            env = self.mode.shape_env
            assert env is not None
            source = ConstantSource(name)
            symbol = env.create_symbol(4096, source=source, dynamic_dim=DimDynamic.DYNAMIC)
            size = env.create_symintnode(symbol, hint=4096, source=source)
            assert isinstance(size, torch.SymInt)
            self.symbols[name] = size
        return self.symbols[name]


# --- comparison up to names ---


def live_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that the output needs, and the placeholders, in order."""
    wanted: set[fx.Node] = set()
    stack = [node for node in graph.nodes if node.op in ("output", "placeholder")]
    while stack:
        node = stack.pop()
        if node not in wanted:
            wanted.add(node)
            stack.extend(node.all_input_nodes)
    return [node for node in graph.nodes if node in wanted]


def op_counts(graph: fx.Graph) -> Counter[str]:
    """How often each target is called by live nodes."""
    return Counter(str(node.target) for node in live_nodes(graph) if node.op == "call_function")


def wiring(graph: fx.Graph) -> tuple[Counter[Any], Any]:
    """The graph up to names and order: each live node as (target, operands), and the output.

    Two nodes that compute the same of the same operands get one description; the counter tells how
    many there are.
    """
    known: dict[Any, int] = {}
    number: dict[fx.Node, int] = {}
    counts: Counter[Any] = Counter()
    output: Any = None

    def describe(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ("node", number[value])
        if isinstance(value, (list, tuple)):
            return tuple(describe(entry) for entry in value)
        if isinstance(value, dict):
            return tuple(sorted((key, describe(entry)) for key, entry in value.items()))
        return (type(value).__name__, str(value))

    position = 0
    described: list[Any] = []
    for node in live_nodes(graph):
        if node.op == "placeholder":
            text: Any = ("placeholder", position)
            position += 1
        elif node.op == "output":
            output = expand(describe(node.args), described)
            continue
        else:
            text = (str(node.target), describe(node.args), describe(node.kwargs))
        if text not in known:
            known[text] = len(known)
            described.append(expand(text, described))
        number[node] = known[text]
        counts[described[known[text]]] += 1
    return counts, output


def expand(text: Any, described: list[Any]) -> Any:
    """Replaces the numbers of operands by digests of what they are, whatever the order of nodes."""
    import hashlib

    if isinstance(text, tuple):
        if len(text) == 2 and text[0] == "node":
            return hashlib.sha256(repr(described[text[1]]).encode()).hexdigest()[:16]
        return tuple(expand(entry, described) for entry in text)
    return text
