"""What an operator is to the core: its name, and whether it views, copies or writes.

The core asks once for each operator that it meets, and keeps the answer. :func:`resolve` leads from
a name back to the operator, when a plan creates nodes or a table is decoded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from spfast.errors import GraphError

__all__ = ["ByTarget", "Operator", "describe", "find", "resolve", "target_name"]

_Known = TypeVar("_Known")

# Higher-order operators whose first argument names what they call. They are functional: the
# operator that they wrap writes to copies.
_FUNCTIONAL_WRAPPERS = frozenset({"auto_functionalized", "auto_functionalized_v2"})

# Other higher-order operators that write to none of their operands.
_FUNCTIONAL = frozenset(
    {
        "associative_scan",
        "cond",
        "flex_attention",
        "flex_attention_backward",
        "invoke_subgraph",
        "map_impl",
        "out_dtype",
        "scan",
        "triton_kernel_wrapper_functional",
        "while_loop",
    }
)

_KNOWN_MODULES = frozenset({"_operator", "builtins", "math", "torch", "sympy"})

# Functions of the operator module that write to their first operand.
_IN_PLACE = frozenset(
    {"setitem", "delitem"}
    | {
        f"i{name}"
        for name in (
            "add and concat floordiv lshift matmul mod mul or pow rshift sub truediv xor".split()
        )
    }
)

# Functions that change the stream on which later nodes run.
_STREAM_FUNCTIONS = frozenset({"set_stream", "stream", "wait_stream", "synchronize"})


def target_name(target: Any) -> str:
    """Returns the name under which tables and patterns know an operator.

    Args:
        target: The target of a ``call_function`` node.

    Example:
        >>> target_name(torch.ops.aten.add.Tensor)
        'aten.add.Tensor'
        >>> import operator
        >>> target_name(operator.getitem)
        '_operator.getitem'
    """
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order.{target._name}"
    module = getattr(target, "__module__", None) or type(target).__module__
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None)
    return f"{module}.{name or type(target).__qualname__}"


class ByTarget(Generic[_Known]):
    """What is known of operators by their names, looked up by the operators themselves.

    Args:
        by_name: What is known, by the names that :func:`target_name` gives.

    Example:
        >>> known = ByTarget({"aten.add.Tensor": "sums"})
        >>> known.get(torch.ops.aten.add.Tensor), known.get(torch.ops.aten.mul.Tensor)
        ('sums', None)
    """

    def __init__(self, by_name: Mapping[str, _Known]) -> None:
        self._by_name = by_name
        self._by_target: dict[Any, _Known | None] = {None: None}

    def get(self, target: Any) -> _Known | None:
        """What is known of an operator, or None."""
        if target not in self._by_target:
            found = self._by_name.get(target_name(target))
            if not isinstance(target, torch._ops.OpOverload):
                return found  # a user's function may not live as long as this
            self._by_target[target] = found
        return self._by_target[target]


# These return what they were given where they have nothing to do: a dropout that is off, a cast to
# the same dtype. They were found by calling the aten operators that torch composes of others.
_RETURN_OPERANDS = frozenset(
    """
    _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short
    _to_cpu _unsafe_view alpha_dropout atleast_1d atleast_2d atleast_3d broadcast_tensors
    cartesian_prod chain_matmul conj_physical data dropout einsum feature_alpha_dropout
    feature_dropout flatten_dense_tensors lift meshgrid native_dropout set sum_to_size to_dense
    to_dense_backward type_as unsafe_chunk unsafe_split unsafe_split_with_sizes
    """.split()
)


@dataclass(frozen=True)
class Operator:
    """What the core has to know of an operator.

    Attributes:
        name: Its name in tables and patterns.
        writes: The positions of the arguments that it writes to, or returns although they are not
            its first argument: nobody follows such an alias.
        writes_keywords: Whether it does so to an argument that is given by keyword alone.
        writes_anything: Whether it may write to whatever it can reach.
        fences: Whether it changes what later nodes mean, as a change of stream does.
        aliases: Whether its result may share the storage of its first argument.
        wraps: Whether its first argument names the operator that it calls.
        lasts: Whether it lives as long as torch does, so that the answer may be kept.
    """

    name: str
    writes: tuple[int, ...] = ()
    writes_keywords: bool = False
    writes_anything: bool = False
    fences: bool = False
    aliases: bool = False
    wraps: bool = False
    lasts: bool = True


def describe(target: Any) -> Operator:
    """Answers the core's question about an operator that it has not met before.

    Args:
        target: The target of a ``call_function`` node.

    Example:
        >>> describe(torch.ops.aten.add_.Tensor).writes
        (0,)
    """
    name = target_name(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        if target._name in _FUNCTIONAL_WRAPPERS:
            return Operator(name, wraps=True)
        if target._name in _FUNCTIONAL:
            return Operator(name)
        return Operator(name, writes_anything=True, fences=True)
    if isinstance(target, torch._ops.OpOverload):
        return _from_schema(name, target)
    # A function that is not Python's own or torch's may do anything.
    if name.partition(".")[0] not in _KNOWN_MODULES:
        return Operator(name, writes_anything=True, fences=True, lasts=False)
    last = name.rpartition(".")[2]
    if last in _IN_PLACE or (last.endswith("_") and not last.endswith("__")):
        return Operator(name, writes=(0,), lasts=False)
    return Operator(name, fences=last in _STREAM_FUNCTIONS, lasts=False)


def _from_schema(name: str, target: torch._ops.OpOverload) -> Operator:
    if target.namespace == "c10d":  # writes to tensors of which its schemas do not say so
        return Operator(name, writes_anything=True, fences=True)
    named = [(at, each) for at, each in enumerate(target._schema.arguments) if each.alias_info]
    written = [(at, each) for at, each in named if at > 0 or each.is_write]
    return Operator(
        name,
        writes=tuple(at for at, each in written if not each.kwarg_only),
        writes_keywords=any(each.kwarg_only for _, each in written),
        fences=target.namespace == "streams",
        aliases=len(written) < len(named) or may_return_operand(target),
    )


def may_return_operand(target: torch._ops.OpOverload) -> bool:
    """Whether a result may lie in an operand's memory though the operator's schema says nothing.

    Example:
        >>> may_return_operand(torch.ops.aten.type_as.default)
        True
    """
    if target._opname == "wait_tensor":
        return True
    return target.namespace == "aten" and target._opname in _RETURN_OPERANDS


def resolve(name: str) -> Callable[..., Any]:
    """Returns the operator or function called ``name``.

    Raises:
        GraphError: There is none in this process.

    Example:
        >>> resolve("aten.add.Tensor")
        <OpOverload(op='aten.add', overload='Tensor')>
    """
    found = find(name)
    if found is None:
        raise GraphError(
            f"operator '{name}' is not registered: import the library that registers it, "
            f"or call spfast.testing.ops.declare() for a stand-in"
        )
    return found


def find(name: str) -> Callable[..., Any] | None:
    """Returns the operator or function called ``name``; None where this process has none.

    Example:
        >>> find("aten.add.Tensor"), find("nobody.knows.default")
        (<OpOverload(op='aten.add', overload='Tensor')>, None)
    """
    parts = name.split(".")
    if parts[0] == "higher_order" and len(parts) == 2:
        importlib.import_module("torch._higher_order_ops")
        return getattr(torch.ops.higher_order, parts[1], None)
    if len(parts) == 3 and hasattr(torch.ops, parts[0]):
        packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
        found = getattr(packet, parts[2], None) if packet is not None else None
        if found is not None:
            return found  # type: ignore[no-any-return]
    return _function(parts)


def _function(parts: list[str]) -> Callable[..., Any] | None:
    """A function of a loaded module, or of torch: a name from a file imports nothing else."""
    for split in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:split]))
        if found is None and parts[0] == "torch":
            try:
                found = importlib.import_module(".".join(parts[:split]))
            except ImportError:
                continue
        if found is None:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found if callable(found) else None
    return None
