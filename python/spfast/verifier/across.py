"""What an operator yields on the different ranks of a group, given what it reads on them.

Written from the operators' own documentation, as :mod:`spfast.verifier.kinds` is: of an operator
that is not known here, nothing can be said.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import fx

from spfast.ranks.groups import group_name
from spfast.verifier.kinds import NORMS, norm_that_writes, operator_name

__all__ = [
    "OTHER_AFTER",
    "SAME_AFTER",
    "Across",
    "Does",
    "Exchange",
    "exchange",
    "group_of",
    "operands_that_count",
    "what_it_does",
]


class Does(Enum):
    """What an operator's results depend on."""

    FUNCTION = auto()  # on all of its operands, and on nothing else
    SIZES = auto()  # on all but the elements of its first operand
    SOURCE = auto()  # on its second operand alone, which it copies into the first
    REDUCE = auto()  # on what all ranks of a group hold; every rank gets the same
    GATHER = auto()  # likewise
    BROADCAST = auto()  # likewise
    SCATTER = auto()  # likewise, but every rank gets another part
    EXCHANGE = auto()  # likewise
    RANK = auto()  # on which rank this is
    ANYTHING = auto()  # on what nobody knows: a random number, a state, memory never written


SAME_AFTER = (Does.REDUCE, Does.GATHER, Does.BROADCAST)
OTHER_AFTER = (Does.SCATTER, Does.EXCHANGE, Does.RANK)


@dataclass(frozen=True)
class Across:
    """What one operator does.

    Attributes:
        does: What its results depend on.
        group: The schema's position and name of the group of a collective; None for others.
        reduce_op: The schema's position and name of the reduce op; None where the collective
            always sums, or does not reduce.
    """

    does: Does
    group: tuple[int, str] | None = None
    reduce_op: tuple[int, str] | None = None

    @property
    def overwrites(self) -> bool:
        """Whether the operator overwrites what it writes to, whatever was there before."""
        return self.does not in (Does.FUNCTION, Does.ANYTHING)


@dataclass(frozen=True)
class Exchange:
    """One call of a collective that can tell whether its operand is the same on every rank.

    Attributes:
        group: The name of the group.
        does: REDUCE, SCATTER or GATHER.
        reduce_op: "sum", "max" and so on; "" for a gather.
    """

    group: str
    does: Does
    reduce_op: str

    @property
    def changes_equal_values(self) -> bool:
        """Whether it makes something else of a value that is the same on every rank."""
        return self.does is Does.GATHER or self.reduce_op in ("sum", "product", "")

    def of_equals(self) -> str:
        """What it would do with a value that is the same on every rank."""
        if self.does is Does.GATHER:
            return "would gather copies of one value"
        if self.changes_equal_values:
            return "would only multiply it by the number of ranks"
        return f"would take the {self.reduce_op} of equal values"


_COLLECTIVE_NAMESPACES = frozenset(
    {
        "_c10d_functional",
        "_c10d_functional_autograd",
        "_dtensor",
        "c10d",
        "symm_mem",
        "vllm",
    }
)
# Parts of the names of collectives, without underscores. The first part that fits decides.
_COLLECTIVE_NAMES = (
    ("matmul", Does.ANYTHING),  # with a product before or after it
    ("reducescatter", Does.SCATTER),
    ("allreduce", Does.REDUCE),
    ("allgather", Does.GATHER),
    ("alltoall", Does.EXCHANGE),
    ("broadcast", Does.BROADCAST),
    ("waittensor", Does.FUNCTION),
    ("wraptensorautograd", Does.FUNCTION),
)
_COORDINATE = "device_mesh::_runtime_compute_coordinate_on_dim"

# Operators that compute from their operands alone.
_KNOWN_NAMESPACES = frozenset({"aten", "prims", "vllm_ir", "quantized_decomposed"})
_SIZES = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"})
_SIZES_IN_PLACE = frozenset({"zero_", "fill_"})
_COPIES = frozenset({"copy", "copy_"})


@functools.lru_cache(maxsize=1024)
def what_it_does(op: str, target: Any) -> Across:
    """Returns what a node of kind ``op`` that calls ``target`` does.

    Example:
        >>> what_it_does("call_function", torch.ops.aten.relu.default).does
        <Does.FUNCTION: 1>
        >>> what_it_does("call_function", torch.ops.aten.rand_like.default).does is Does.ANYTHING
        True
    """
    if op != "call_function":
        return Across(Does.ANYTHING)
    name = operator_name(target)
    if name in NORMS or name in ("auto_functionalized", "auto_functionalized_v2"):
        return Across(Does.FUNCTION)
    if isinstance(target, torch._ops.OpOverload):
        return _of_operator(target)
    module = getattr(target, "__module__", "")
    is_number = module in ("_operator", "operator", "math", "builtins")
    is_number |= getattr(target, "__name__", "").startswith(("sym_", "_sym_"))
    return Across(Does.FUNCTION if is_number else Does.ANYTHING)


def _of_operator(target: torch._ops.OpOverload) -> Across:
    namespace, short = target._schema.name.split("::", 1)
    if target._schema.name == _COORDINATE:
        return Across(Does.RANK)
    if namespace in _COLLECTIVE_NAMESPACES:
        plain = short.replace("_", "")
        does = next((does for part, does in _COLLECTIVE_NAMES if part in plain), Does.ANYTHING)
        return Across(does, _place(target, "group"), _place(target, "reduce_op"))
    if namespace not in _KNOWN_NAMESPACES or torch.Tag.nondeterministic_seeded in target.tags:
        return Across(Does.ANYTHING)
    if "empty" in short or "resize" in short:
        return Across(Does.ANYTHING)
    if short in _SIZES or short in _SIZES_IN_PLACE:
        return Across(Does.SIZES)
    return Across(Does.SOURCE if short in _COPIES else Does.FUNCTION)


def _place(target: torch._ops.OpOverload, part: str) -> tuple[int, str] | None:
    found = enumerate(target._schema.arguments)
    return next(((at, a.name) for at, a in found if part in a.name and "size" not in a.name), None)


def _given(place: tuple[int, str] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns the argument at a place of the schema; None when there is none."""
    if place is None:
        return None
    return args[place[0]] if place[0] < len(args) else kwargs.get(place[1])


def group_of(what: Across, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Returns the name of the group that a collective is over; None when it does not say."""
    group = _given(what.group, args, kwargs)
    return None if group is None or isinstance(group, fx.Node) else group_name(group)


def exchange(what: Across, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exchange | None:
    """Returns what a collective tells of its operand; None for a call that tells nothing."""
    if what.does not in (Does.REDUCE, Does.SCATTER, Does.GATHER):
        return None
    group = group_of(what, args, kwargs)
    if group is None:
        return None
    if what.does is Does.GATHER:
        return Exchange(group, what.does, "")
    reduce_op = "sum" if what.reduce_op is None else _given(what.reduce_op, args, kwargs)
    return Exchange(group, what.does, reduce_op if isinstance(reduce_op, str) else "unknown")


def operands_that_count(
    what: Across, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[fx.Node] | None:
    """Returns the operands that results depend on; None where the operator is not known after all.

    A buffer that is wholly overwritten does not count, nor does a value of which only the size is
    read.
    """
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _operands_of_functionalised(args, kwargs)
    if what.does is Does.SIZES:
        args = args[1:]
    elif what.does is Does.SOURCE:
        args = args[1:2]
    found: list[fx.Node] = []
    fx.node.map_arg((args, kwargs), found.append)
    return found


def _operands_of_functionalised(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[fx.Node] | None:
    norm = norm_that_writes(args[0]) if args else None
    if norm is None:
        return None
    buffers = [name for name in norm.writes if name not in norm.rows]
    counted = {name: kwargs[name] for name in kwargs if name not in (*buffers, "_all_bases")}
    bases = list(kwargs.get("_all_bases", ()))
    for name in buffers:
        place = kwargs.get(f"_{name}_base_index")
        if isinstance(place, int) and place < len(bases):
            bases[place] = None
    found: list[fx.Node] = []
    fx.node.map_arg((tuple(bases), counted), found.append)
    return found
