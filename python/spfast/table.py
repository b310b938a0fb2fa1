"""The NodeTable: a graph as one compact file, and back.

A table needs neither the model nor the operators that its graph calls. Graphs travel as tables in
bug reports, and captured graphs ship with the package as tables.
"""

from __future__ import annotations

import ast
import operator
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, free_symbols

from spfast import _core
from spfast.base.files import replaced
from spfast.base.table_files import pack, unpack
from spfast.errors import FileFormatError, GraphError
from spfast.fxgraph.graphs import graph_of
from spfast.fxgraph.targets import resolve

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["NodeTable"]


class NodeTable:
    """A graph as flat arrays: operators, operands, users, and what is known of each value.

    Made by :meth:`from_graph` or :meth:`load`.

    Example:
        >>> graph = torch.fx.symbolic_trace(torch.nn.ReLU()).graph
        >>> len(NodeTable.from_graph(graph))
        3
    """

    def __init__(self, core: _core.NodeTable) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<NodeTable of {len(self)} nodes>"

    @classmethod
    def from_graph(cls, graph: fx.Graph | fx.GraphModule | ExportedProgram) -> NodeTable:
        """Encodes a graph with names, literals and ``meta["val"]`` of every node.

        Args:
            graph: The graph; it is not changed.

        Raises:
            GraphError: It is not a graph, or a node reads one that is not in it.
        """
        found = graph_of(graph)
        return cls(_core.NodeTable.from_graph(found, _hints(found)))

    def to_bytes(self) -> bytes:
        """Returns the table as :meth:`save` writes it."""
        return self._core.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> NodeTable:
        """Reads what :meth:`to_bytes` returned.

        Raises:
            FileFormatError: The bytes are no table, are damaged, or of a newer version.
        """
        return cls(_core.NodeTable.from_bytes(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table, compressed, to a file, by convention one that ends in ``.spfx``.

        The file is written whole or not at all.
        """
        data = pack(self.to_bytes())
        with replaced(path) as scratch:
            scratch.write_bytes(data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NodeTable:
        """Reads a file that :meth:`save` wrote.

        Raises:
            FileFormatError: As :meth:`from_bytes`; the message names the file.
            OSError: The file cannot be read.
        """
        with open(path, "rb") as file:
            try:
                return cls.from_bytes(unpack(file))
            except FileFormatError as error:
                raise FileFormatError(f"{os.fspath(path)}: {error}") from None

    def to_graph(self) -> fx.Graph:
        """Decodes the table into a new graph with fake values.

        Symbolic sizes belong to a new ShapeEnv, under the names that they had.

        Raises:
            GraphError: An operator is not registered in this process, or an operand is of a kind
                that a table cannot hold.
        """
        return _Decoder(self._core).graph()

    def memory_bytes(self) -> int:
        """Returns how many bytes the table takes in memory."""
        return self._core.memory_bytes()

    def __len__(self) -> int:
        return len(self._core)

    def __reduce__(self) -> tuple[Callable[[bytes], NodeTable], tuple[bytes]]:
        return NodeTable.from_bytes, (self.to_bytes(),)


# --- symbols -----------------------------------------------------------------------------------

# The example value that a file has for a symbol without one.
_NO_HINT = -1


def _hints(graph: fx.Graph) -> list[tuple[str, int]]:
    """The symbols of the graph's sizes, each with its example value."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        for size in _sizes(node.meta.get("val")):
            for symbol in size.node.expr.free_symbols:
                if str(symbol) not in found:
                    found[str(symbol)] = _hint(size.node.shape_env, symbol)
    return sorted(found.items())


def _sizes(value: Any) -> list[torch.SymInt]:
    if isinstance(value, torch.SymInt):
        return [value]
    if isinstance(value, torch.Tensor):
        if not free_symbols(value):
            return []
        return [n for n in (*value.shape, *value.stride()) if isinstance(n, torch.SymInt)]
    if isinstance(value, (tuple, list)):
        return [size for part in value for size in _sizes(part)]
    return []


def _hint(env: ShapeEnv, symbol: Any) -> int:
    for name in ("backed_var_to_val", "var_to_val"):
        values = getattr(env, name, None)
        if values is not None and symbol in values:
            return int(values[symbol])
    return _NO_HINT


# Symbolic sizes are written as torch prints them. Only arithmetic is read back: a file is not
# trusted with eval.
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}
_MAX_POWER = 8


def evaluate(text: str, symbols: dict[str, Any]) -> Any:
    """Computes a symbolic expression from the symbols in it.

    Raises:
        GraphError: It holds anything but arithmetic on known symbols.
    """
    try:
        return _evaluate(ast.parse(text, mode="eval").body, symbols)
    except (SyntaxError, KeyError, RecursionError, ValueError, MemoryError):
        raise GraphError(
            f"the symbolic size '{text[:80]}' cannot be read: it is not arithmetic on known symbols"
        ) from None


def _evaluate(node: ast.expr, symbols: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return symbols[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, symbols)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, symbols), _evaluate(node.right, symbols)
        if isinstance(node.op, ast.Pow):
            if type(right) is not int or not 0 <= right <= _MAX_POWER:
                raise ValueError
            product: Any = 1
            for _ in range(right):
                product = product * left
            return product
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        values = [_evaluate(item, symbols) for item in node.args]
        call = _CALLS[node.func.id]
        result = values[0]
        for value in values[1:]:
            result = call(result, value)
        return result
    raise ValueError


# --- decoding ----------------------------------------------------------------------------------


class _Decoder:
    """Builds one graph from one table."""

    def __init__(self, core: _core.NodeTable) -> None:
        self._core = core
        self._graph = fx.Graph()
        self._env = ShapeEnv()
        self._mode = FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True)
        self._symbols = {name: self._symbol(name, hint) for name, hint in core.symbols()}
        self._exprs: dict[str, Any] = {}
        self._nodes: list[fx.Node] = []
        self._targets: dict[str, Any] = {}

    def graph(self) -> fx.Graph:
        for row in self._core.rows():
            self._add(row)
        return self._graph

    def _symbol(self, name: str, hint: int) -> Any:
        env = self._env
        if hint == _NO_HINT:
            return env.create_unbacked_symint()
        source = ConstantSource(f"spfx_{name}")
        # torch numbers symbols by the name of their source. A decoded symbol keeps its own number.
        number = name.lstrip("abcdefghijklmnopqrstuvwxyz_")
        own = getattr(env, "_generate_unique_id", None)
        if own is not None and number.isdecimal():
            env._generate_unique_id = lambda source_name: int(number)  # type: ignore[method-assign]
        try:
            symbol = env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        finally:
            if own is not None:
                env._generate_unique_id = own  # type: ignore[method-assign]
        return env.create_symintnode(symbol, hint=hint, source=source)

    def _add(self, row: _core.NodeRow) -> None:
        op, target, name = row.op, row.target, row.name
        operands = tuple(self._value(arg) for arg in row.args)
        named = {str(self._value(key)): self._value(value) for key, value in row.kwargs}
        found: Any = target
        if op in ("placeholder", "get_attr", "call_module"):
            # In nodes of these kinds, the target stands before the node's own operands.
            found, operands = operands[0], operands[1:]
        elif op == "call_function":
            found = self._target(target)
        elif op == "call_method":
            found = target.removeprefix("call_method.")
        elif op == "output":
            found = "output"
        # Nodes of one kind share one string for it, as in a traced graph.
        node = self._graph.create_node(sys.intern(op), found, operands, named, name=name)
        if name is not None and node.name != name:
            node._rename(name)
        self._nodes.append(node)
        if row.val is not None:
            node.meta["val"] = self._meta(row.val)

    def _target(self, name: str) -> Any:
        if name not in self._targets:
            # auto_functionalized[_C.rms_norm.default] is known by its outer operator.
            self._targets[name] = resolve(name.split("[", 1)[0])
        return self._targets[name]

    def _value(self, root: Any) -> Any:
        """Turns tagged values into objects; containers wait on a stack, however deep they nest."""
        if not (isinstance(root, tuple) and root[0] in ("list", "tuple", "dict", "slice")):
            return self._leaf(root)
        # The order is post-order: a container is finished after its items.
        finished: dict[int, Any] = {}
        stack = [(root, False)]
        while stack:
            item, ready = stack.pop()
            kind, parts = item
            if not ready:
                stack.append((item, True))
                stack += [
                    (part, False)
                    for part in parts
                    if isinstance(part, tuple) and part[0] in ("list", "tuple", "dict", "slice")
                ]
                continue
            values = [
                finished[id(part)] if id(part) in finished else self._leaf(part) for part in parts
            ]
            finished[id(item)] = _build(kind, values)
        return finished[id(root)]

    def _leaf(self, value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        kind, payload = value
        if kind == "node":
            return self._nodes[payload]
        if kind == "dtype" or kind == "const":
            return _torch_constant(payload)
        if kind == "device":
            return torch.device(payload)
        if kind == "target":
            return self._target(payload)
        if kind == "expr":
            return self._expr(payload)
        raise GraphError(
            f"the table holds an operand that only its own process could know: {payload}"
        )

    def _expr(self, text: str) -> Any:
        if text not in self._exprs:
            self._exprs[text] = evaluate(text, self._symbols)
        return self._exprs[text]

    def _dim(self, dim: Any) -> Any:
        return self._expr(dim[1]) if isinstance(dim, tuple) else dim

    def _meta(self, val: Any) -> Any:
        if val is None:
            return None
        if not isinstance(val, _core.TensorMeta):
            kind, payload = val
            if kind == "sym":
                return self._dim(payload)
            return tuple(self._meta(part) for part in payload)
        shape = [self._dim(dim) for dim in val.dims]
        dtype = _torch_constant(val.dtype)
        if val.strides:
            layout = [self._dim(stride) for stride in val.strides]
            meta = torch.empty_strided(shape, layout, dtype=dtype, device="meta")
        else:
            meta = torch.empty(shape, dtype=dtype, device="meta")
        return FakeTensor(self._mode, meta, torch.device(val.device))


def _build(kind: str, values: list[Any]) -> Any:
    if kind == "list":
        return values
    if kind == "tuple":
        return tuple(values)
    if kind == "slice":
        return slice(*values)
    return dict(zip(values[::2], values[1::2], strict=True))


def _torch_constant(text: str) -> Any:
    found = getattr(torch, text.removeprefix("torch."), None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise GraphError(f"'{text}' is no dtype, layout or memory format of this torch")
    return found
