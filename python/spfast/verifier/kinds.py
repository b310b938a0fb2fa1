"""Which operator does what, as far as rows of tokens are concerned.

Written from the operators' own documentation, not from the patterns: an operator that is not here
is taken to need its operands whole.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch

__all__ = [
    "ALONG",
    "COLLECTIVES",
    "IDENTITIES",
    "LIKE",
    "NORMS",
    "REDUCTIONS",
    "VIEWS",
    "Collective",
    "Norm",
    "Reduction",
    "is_elementwise",
    "norm_that_writes",
    "operator_name",
    "writes_of",
]


@dataclass(frozen=True)
class Collective:
    """Where a collective's arguments stand; -1: it has no such argument."""

    what: str  # "reduce", "scatter" or "gather"
    group: int
    size: int = -1
    dim: int = -1
    reduce_op: int = -1
    needs_wait: bool = False
    many: bool = False  # takes a list of tensors, and returns one
    in_place: bool = False  # writes to them, and returns them


COLLECTIVES: dict[str, Collective] = {
    "vllm::all_reduce": Collective("reduce", group=1),
    "vllm::reduce_scatter": Collective("scatter", group=3, size=2, dim=1),
    "vllm::all_gather": Collective("gather", group=3, size=2, dim=1),
    "_c10d_functional::all_reduce": Collective("reduce", group=2, reduce_op=1, needs_wait=True),
    "_c10d_functional::all_reduce_": Collective(
        "reduce", group=2, reduce_op=1, needs_wait=True, in_place=True
    ),
    "_c10d_functional::all_reduce_coalesced": Collective(
        "reduce", group=2, reduce_op=1, needs_wait=True, many=True
    ),
    "_c10d_functional::all_reduce_coalesced_": Collective(
        "reduce", group=2, reduce_op=1, needs_wait=True, many=True, in_place=True
    ),
    "_c10d_functional::reduce_scatter_tensor": Collective(
        "scatter", group=3, size=2, reduce_op=1, needs_wait=True
    ),
    "_c10d_functional::all_gather_into_tensor": Collective(
        "gather", group=2, size=1, needs_wait=True
    ),
}

WAITS = frozenset({"_c10d_functional::wait_tensor"})

# The same elements in the same order, under another shape.
VIEWS = frozenset(
    {
        "aten::view",
        "aten::reshape",
        "aten::_unsafe_view",
        "aten::unsqueeze",
        "aten::squeeze.dim",
        "aten::flatten.using_ints",
    }
)

# The same elements and shape.
IDENTITIES = frozenset(
    {
        "aten::clone",
        "aten::alias",
        "aten::detach",
        "aten::contiguous",
        "aten::lift_fresh",
        "aten::lift_fresh_copy",
    }
)

# These make a tensor in the shape of their first argument, each element by itself.
LIKE = frozenset({"aten::empty_like", "aten::zeros_like", "aten::ones_like", "aten::full_like"})

# Elementwise operators that lack torch's tag for it.
_MORE_ELEMENTWISE = frozenset(
    {
        "aten::_to_copy",
        "aten::hardswish",
        "aten::leaky_relu",
        "aten::masked_fill.Tensor",
        "aten::rsub.Scalar",
        "aten::rsub.Tensor",
        "aten::where.Scalar",
        "aten::where.ScalarOther",
        "aten::where.ScalarSelf",
        "prims::convert_element_type",
    }
)


@dataclass(frozen=True)
class Reduction:
    """Where an operator over one dim has the dim and keepdim; keepdim None: the shape stays.

    One with several results returns a tuple of them, all of the same shape.
    """

    dim: int | str
    keepdim: int | str | None
    results: int = 1


REDUCTIONS: dict[str, Reduction] = {
    "aten::mean.dim": Reduction(1, 2),
    "aten::sum.dim_IntList": Reduction(1, 2),
    "aten::amax": Reduction(1, 2),
    "aten::amin": Reduction(1, 2),
    "aten::argmax": Reduction(1, 2),
    "aten::logsumexp": Reduction(1, 2),
    "aten::var.correction": Reduction(1, "keepdim"),
    "aten::var_mean.correction": Reduction(1, "keepdim", results=2),
    "aten::max.dim": Reduction(1, 2, results=2),
    "aten::min.dim": Reduction(1, 2, results=2),
    "aten::linalg_vector_norm": Reduction(2, 3),
    "aten::_softmax": Reduction(1, None),
    "aten::_log_softmax": Reduction(1, None),
    "aten::softmax.int": Reduction(1, None),
}


# Operators along one dim, each with the argument that names the dim. Their results may have any
# width.
ALONG: dict[str, str] = {
    **dict.fromkeys(
        (
            "aten::all.dim",
            "aten::any.dim",
            "aten::argmin",
            "aten::cat",
            "aten::cumprod",
            "aten::cumsum",
            "aten::gather",
            "aten::glu",
            "aten::log_softmax.int",
            "aten::max.dim",
            "aten::min.dim",
            "aten::prod.dim_int",
            "aten::scatter.src",
            "aten::scatter.value",
            "aten::scatter_add",
            "aten::select.int",
            "aten::slice.Tensor",
            "aten::sort",
            "aten::split.Tensor",
            "aten::split_with_sizes",
            "aten::std.correction",
            "aten::topk",
            "aten::unbind.int",
            "aten::var_mean.correction",
        ),
        "dim",
    ),
    "aten::flip": "dims",
}


@dataclass(frozen=True)
class Norm:
    """An operator that treats every row alone.

    Attributes:
        rows: Arguments that have one row a token.
        shared: Arguments that are the same for every row.
        outputs: For each result, "row" (as wide as the input), "one" (one number a row), or "own"
            (a width of its own, which its buffer or its fake value tells).
        writes: Arguments that it writes its results to, for the auto_functionalized form.
        shape_argument: An argument that lists the normalised dims, which must be the last one.
        is_tuple: Whether it returns a tuple.
        block: The number of rows in a block, where results lie in blocks: the rows of one block
            cannot be told apart.
        block_if: The argument that says whether results lie in blocks.
        groups: The argument that lists how many rows and how many columns make a group, for each of
            which a shared operand has one number; -1: all of them.
    """

    rows: tuple[str, ...]
    shared: tuple[str, ...]
    outputs: tuple[str, ...] = ("row",)
    writes: tuple[str, ...] = ()
    shape_argument: str | None = None
    is_tuple: bool = False
    block: int = 1
    block_if: str = ""
    groups: str = ""


NORMS: dict[str, Norm] = {
    "vllm_ir::rms_norm": Norm(("x",), ("weight",)),
    "vllm_ir::fused_add_rms_norm": Norm(
        ("x", "x_residual"), ("weight",), ("row", "row"), is_tuple=True
    ),
    "_C::rms_norm": Norm(("input",), ("weight",), writes=("result",)),
    "_C::fused_add_rms_norm": Norm(
        ("input", "residual"), ("weight",), ("row", "row"), writes=("input", "residual")
    ),
    "_C::static_scaled_fp8_quant": Norm(
        ("input",), ("scale",), writes=("result",), groups="group_shape"
    ),
    "_C::static_scaled_int8_quant": Norm(("input",), ("scale", "azp"), writes=("result",)),
    "_C::dynamic_per_token_scaled_fp8_quant": Norm(
        ("input",), ("scale_ub",), ("row", "one"), writes=("result", "scale")
    ),
    "_C::dynamic_scaled_int8_quant": Norm(
        ("input",), (), ("row", "one", "one"), writes=("result", "scale", "azp")
    ),
    "_C::per_token_group_fp8_quant": Norm(
        ("input",), (), ("row", "own"), writes=("output_q", "output_s")
    ),
    "_C::per_token_group_quant_int8": Norm(
        ("input",), (), ("row", "own"), writes=("output_q", "output_s")
    ),
    "_C::scaled_fp4_quant": Norm(
        ("input",),
        ("input_scale",),
        ("own", "own"),
        is_tuple=True,
        block=128,
        block_if="is_sf_swizzled_layout",
    ),
    "_C::scaled_fp4_quant.out": Norm(
        ("input",),
        ("input_scale",),
        ("own", "own"),
        writes=("output", "output_scale"),
        block=128,
        block_if="is_sf_swizzled_layout",
    ),
    "aten::rms_norm": Norm(("input",), ("weight",), shape_argument="normalized_shape"),
    "aten::_fused_rms_norm": Norm(
        ("input",),
        ("weight",),
        ("row", "one"),
        shape_argument="normalized_shape",
        is_tuple=True,
    ),
    "aten::native_layer_norm": Norm(
        ("input",),
        ("weight", "bias"),
        ("row", "one", "one"),
        shape_argument="normalized_shape",
        is_tuple=True,
    ),
    "aten::layer_norm": Norm(("input",), ("weight", "bias"), shape_argument="normalized_shape"),
}

# What vLLM's operators for a CPU call an argument, by its name in those for a GPU.
_ALSO_CALLED = {"result": "out"}


@functools.lru_cache(maxsize=1024)
def norm_that_writes(target: Any) -> Norm | None:
    """Returns what is known of a norm or quantisation that writes its results, by its own names.

    None where it is not known, or where its schema writes to other arguments than is known.

    Example:
        >>> from spfast.testing import ops
        >>> _ = ops.declare()
        >>> norm_that_writes(torch.ops._C.rms_norm.default).writes
        ('result',)
    """
    norm = NORMS.get(operator_name(target))
    if norm is None or not norm.writes:
        return None
    written = tuple(
        argument.name
        for argument in target._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    if written == norm.writes:
        return norm
    renamed = tuple(_ALSO_CALLED.get(name, name) for name in norm.writes)
    return replace(norm, writes=renamed) if written == renamed else None


def operator_name(target: Any) -> str:
    """Returns "namespace::name.overload" of an operator, "" for any other target.

    Example:
        >>> operator_name(torch.ops.aten.mean.dim)
        'aten::mean.dim'
    """
    if isinstance(target, torch._ops.OpOverload):
        return str(target._name)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target._name)
    return ""


def is_elementwise(target: Any) -> bool:
    """Says whether each element of the result depends on the operands' same element only."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return torch.Tag.pointwise in target.tags or target._name in _MORE_ELEMENTWISE


# Pure although they are not operators with a schema.
_PURE_HIGHER_ORDER = frozenset(
    {
        "auto_functionalized",
        "auto_functionalized_v2",
        "cond",
        "while_loop",
        "scan",
        "associative_scan",
        "invoke_subgraph",
        "flex_attention",
        "triton_kernel_wrapper_functional",
        "out_dtype",
        "with_effects",
    }
)
_WRITING_OPERATORS = frozenset(
    getattr(operator, name)
    for name in dir(operator)
    if name.startswith("i") and name[1:] in {"add", "sub", "mul", "truediv", "floordiv", "matmul"}
) | {operator.setitem, operator.delitem}


@dataclass(frozen=True)
class Writes:
    """What an operator does besides returning a result.

    Attributes:
        arguments: Schema positions and names written to; None: possibly everything it is given.
        ordered: Whether its place among other such operators matters, even without a write.
    """

    arguments: tuple[tuple[int, str], ...] | None = ()
    ordered: bool = False

    @property
    def any(self) -> bool:
        """Whether it writes to an argument."""
        return self.arguments is None or bool(self.arguments)


_PURE = Writes()


@functools.lru_cache(maxsize=1024)
def writes_of(op: str, target: Any) -> Writes:
    """Returns the side effects of a node of kind ``op`` that calls ``target``."""
    if op in ("placeholder", "get_attr", "output"):
        return _PURE
    if op != "call_function":
        return Writes(None, True)
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace == "c10d":  # writes to tensors of which its schemas do not say so
            return Writes(None, True)
        schema = target._schema
        written = tuple(
            (i, a.name)
            for i, a in enumerate(schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        )
        ordered = (
            bool(written) or not schema.returns or torch.Tag.nondeterministic_seeded in target.tags
        )
        return Writes(written, ordered) if ordered else _PURE
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _PURE if operator_name(target) in _PURE_HIGHER_ORDER else Writes(None, True)
    module = getattr(target, "__module__", "")
    if module in ("_operator", "operator", "math", "builtins"):
        return Writes(None, True) if target in _WRITING_OPERATORS else _PURE
    if getattr(target, "__name__", "").startswith(("sym_", "_sym_")):
        return _PURE
    return Writes(None, True)
