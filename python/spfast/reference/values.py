"""What one value of a graph is: its names, its shape, and who writes to its memory."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.symbol import SymT, symbol_is_type

from spfast.fxgraph import targets

__all__ = [
    "Memory",
    "is_dense",
    "is_view",
    "may_read_fresh",
    "is_read",
    "operator_name",
    "root",
    "rows_of",
    "shape_of",
    "size_key",
    "source",
    "symbols_of_inputs",
    "users_by_any_name",
    "wants_format",
]

aten = torch.ops.aten

VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
IDENTITIES = (
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)
_EVERYTHING = 2**63 - 1
_FORMAT = type(torch.contiguous_format)

# Matrix products: the result is a fresh tensor, whatever the strides of the operands.
_PRODUCTS = (
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.sym_size.int,
)


def operator_name(node: fx.Node) -> str:
    """The name under which patterns know what the node calls; "" for anything but a function.

    Example:
        >>> graph = fx.Graph()
        >>> operator_name(graph.call_function(aten.relu.default, (graph.placeholder("x"),)))
        'aten.relu.default'
    """
    if node.op != "call_function":
        return ""
    described = targets.describe(node.target)
    if described.wraps and node.args and isinstance(node.args[0], torch._ops.OpOverload):
        return f"{described.name}[{node.args[0]}]"
    return described.name


# --- names --------------------------------------------------------------------------------------


def is_view(node: fx.Node) -> bool:
    """Whether the node is the same elements in the same order, in other dims."""
    return (
        node.op == "call_function"
        and node.target in VIEWS
        and len(node.args) == 2
        and isinstance(node.args[0], fx.Node)
        and isinstance(node.args[1], (list, tuple))
    )


def source(node: fx.Node, width: int) -> fx.Node | None:
    """The value that the node is only an alias of, for rows of ``width`` elements; or None.

    A view whose last dim is ``width`` keeps every row whole and in its place. A copy, or a slice of
    everything, changes nothing.
    """
    if node.op != "call_function":
        return None
    named: Any = None
    if is_view(node):
        sizes: Any = node.args[1]
        last = sizes[-1] if len(sizes) >= 2 else None
        named = node.args[0] if type(last) is int and last == width else None
    elif node.target in IDENTITIES:
        named = node.args[0] if node.args and not wants_format(node) else None
    elif node.target is aten.copy.default:
        named = node.args[1] if len(node.args) > 1 else None
    elif node.target is aten.slice.Tensor and not node.kwargs:
        defaults: tuple[Any, ...] = (None, 0, None, None, 1)
        _, _, start, end, step = node.args + defaults[len(node.args) :]
        if start in (None, 0) and end in (None, _EVERYTHING) and step == 1:
            named = node.args[0]
    return named if isinstance(named, fx.Node) else None


def wants_format(node: fx.Node) -> bool:
    """Whether the node asks for a memory format that only a certain number of dims can have."""
    formats = (torch.channels_last, torch.channels_last_3d)
    return any(value in formats for value in node.kwargs.values() if type(value) is _FORMAT)


def root(node: fx.Node, width: int) -> fx.Node:
    """The value behind all names."""
    while (named := source(node, width)) is not None:
        node = named
    return node


def users_by_any_name(value: fx.Node, width: int) -> Iterator[fx.Node]:
    """Everything that reads the value, directly or under another name, names included."""
    names, seen = [root(value, width)], set()
    while names:
        name = names.pop()
        for user in name.users:
            if user not in seen:
                seen.add(user)
                yield user
            if source(user, width) is name:
                names.append(user)


# --- shapes -------------------------------------------------------------------------------------


def size_key(size: Any) -> Any:
    """Equal for equal sizes: the number, or the symbolic expression."""
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        return int(expression) if expression.is_Integer else str(expression)
    return size


def shape_of(node: fx.Node) -> tuple[Any, ...] | None:
    """The sizes of a node that yields one tensor, comparable; None for any other node."""
    value = node.meta.get("val")
    return tuple(map(size_key, value.shape)) if isinstance(value, torch.Tensor) else None


def rows_of(value: torch.Tensor) -> Any:
    """How many rows a tensor has when all its dims but the last are made one."""
    return math.prod(value.shape[:-1]) if value.dim() >= 2 else None


def is_dense(value: torch.Tensor) -> bool:
    """Whether a tensor lies as a fresh one does; strides of dims of size 1 do not count."""
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if size_key(size) == 1:
            continue
        if size_key(stride) != size_key(expected):
            return bool(size_key(value.numel()) == 0)
        expected = expected * size
    return True


def may_read_fresh(reader: fx.Node, value: torch.Tensor) -> bool:
    """Whether the reader yields the same when it reads a fresh tensor with these elements."""
    name = operator_name(reader)
    if not is_dense(value):
        return reader.target in _PRODUCTS
    sizes = tuple(map(size_key, value.shape))
    if 1 not in sizes or reader.op == "output":
        return True
    known = name.startswith(("aten.", "prims.", "_operator.", "_c10d_functional."))
    return known and not any(part in name for part in ("stride", "storage", "contiguous"))


# --- memory -------------------------------------------------------------------------------------


class Memory:
    """Where a graph writes to memory, and where it changes the stream.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.position = {node: index for index, node in enumerate(graph.nodes)}
        self._changes: list[fx.Node] = []
        self._writers: dict[fx.Node, list[fx.Node]] = {}
        self._parents = _shared_storages(graph)
        for node in graph.nodes:
            for value in _written(node):
                self._writers.setdefault(self._storage(value), []).append(node)
            if _changes_stream(node):
                self._changes.append(node)

    def change_between(self, first: fx.Node, last: fx.Node) -> fx.Node | None:
        """The first change of the stream after ``first`` and before ``last``."""
        begin, end = self.position[first], self.position[last]
        inside = (node for node in self._changes if begin < self.position[node] < end)
        return next(inside, None)

    def writer_of(self, value: fx.Node) -> fx.Node | None:
        """The first node that writes to the memory in which the value lies."""
        return next(iter(self._writers.get(self._storage(value), ())), None)

    def is_made_last(self, value: fx.Node) -> bool:
        """Whether a value is made after everything that writes to its memory."""
        writers = self._writers.get(self._storage(value))
        return not writers or self.position[writers[-1]] < self.position[value]

    def other_writer(self, value: fx.Node, before: fx.Node | None = None) -> fx.Node | None:
        """The first other node that writes to the value's memory, if so before another node."""
        for writer in self._writers.get(self._storage(value), ()):
            if before is not None and self.position[writer] >= self.position[before]:
                break
            if writer is not value and writer.op != "call_module":  # which may write, or not
                return writer
        return None

    def written_storage(self, value: fx.Node) -> fx.Node | None:
        """A value that stands for the memory in which this one lies, if anything writes there."""
        storage = self._storage(value)
        return storage if storage in self._writers else None

    def storages_written_by(self, node: fx.Node) -> list[fx.Node]:
        """The values that stand for the memory that a node writes to."""
        return list(dict.fromkeys(map(self._storage, _written(node))))

    def _storage(self, value: fx.Node) -> fx.Node:
        return _root(self._parents, value)


def _shared_storages(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """The values that may lie in the same memory, as disjoint sets: the parent of each."""
    parents: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        shared = list(_written(node))
        if _may_alias(node):
            first = node.args[0] if node.args else None
            shared += [first] if isinstance(first, fx.Node) else node.all_input_nodes
        for other in shared:
            one, two = _root(parents, node), _root(parents, other)
            if one is not two:
                parents[one] = two
    return parents


def _root(parents: dict[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    while node in parents:
        above = parents[node]
        parents[node] = parents.get(above, above)
        node = above
    return node


def _may_alias(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target in VIEWS or node.target is operator.getitem:
        return True
    return targets.describe(node.target).aliases


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """The values that the node may write to, or returns though they are not its first operand."""
    held: list[Any] = []
    method = str(node.target) if node.op == "call_method" else ""
    if node.op == "call_module":
        held = [node.args, node.kwargs]
    elif method.endswith("_") and not method.endswith("__"):
        held = [node.args[0]]
    elif isinstance(node.target, torch._ops.OpOverload) and node.target.namespace != "c10d":
        for position, argument in enumerate(node.target._schema.arguments):
            alias = argument.alias_info
            if alias is not None and (alias.is_write or position > 0):
                given = node.args[position] if position < len(node.args) else None
                held.append(node.kwargs.get(argument.name, given))
    elif node.op == "call_function":
        described = targets.describe(node.target)
        if described.writes_anything:
            held = [node.args, node.kwargs]
        elif described.writes:
            held = [node.args[0]]
    found: list[fx.Node] = []
    fx.node.map_arg(held, found.append)
    yield from found


def _changes_stream(node: fx.Node) -> bool:
    if node.op == "call_function":
        return targets.describe(node.target).fences
    return node.op == "call_module"


def symbols_of_inputs(graph: fx.Graph) -> set[Any]:
    """The symbols that the sizes of the inputs consist of."""
    found: set[Any] = set()
    for node in graph.find_nodes(op="placeholder"):
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            for number in (*val.shape, *val.stride(), val.storage_offset()):
                if isinstance(number, torch.SymInt):
                    found |= number.node.expr.free_symbols
    return found


def is_read(node: fx.Node) -> bool:
    """Whether a number depends on what some tensor holds: torch names such symbols u0, u1, ..."""
    val = node.meta.get("val")
    return isinstance(val, torch.SymInt) and any(
        symbol_is_type(symbol, SymT.UNBACKED_INT) for symbol in val.node.expr.free_symbols
    )
