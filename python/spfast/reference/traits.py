"""What an operator's name says of its results on the ranks of a group."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from torch import fx

__all__ = ["Traits", "changes_equals", "reduces_tokens", "traits_of"]


@dataclass(frozen=True)
class Traits:
    """One operator.

    Attributes:
        collective: "all_reduce", "all_gather", "reduce_scatter", "all_to_all" or "other"; "" where
            it is none.
        deterministic: Whether ranks with the same operands get the same result.
        sizes: Whether it reads how its operand lies, not what it holds.
        number: Whether it reads a size, or computes numbers from numbers.
        data_sized: Whether the size of its result depends on what its operands hold.
        rank: Whether its result depends on which rank this is.
        condition: Whether each element of its result says that something holds.
        selects_by: Position of the condition by which it selects.
        dropout: Position of a probability; the operator is random unless that is absent or 0.
    """

    collective: str = ""
    deterministic: bool = False
    sizes: bool = False
    number: bool = False
    data_sized: bool = False
    rank: bool = False
    condition: bool = False
    selects_by: int | None = None
    dropout: int | None = None


_COMPUTE = frozenset(
    "aten prims _operator math builtins torch quantized_decomposed vllm_ir".split()
)
# Functions of these modules compute numbers, but for the one that takes any value apart.
_NUMBERS = frozenset("_operator math builtins torch".split())
_TAKES_APART = "_operator.getitem"
_COLLECTIVE = frozenset(
    "_c10d_functional _c10d_functional_autograd c10d c10d_functional symm_mem".split()
)
_KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")

# Random operators, named without the underscore of their in-place forms.
_RANDOM = frozenset(
    """
    _cudnn_rnn _fused_dropout _lstm_mps _sample_dirichlet _standard_gamma alpha_dropout bernoulli
    binomial cauchy dropout exponential feature_alpha_dropout feature_dropout geometric gru
    inductor_randint inductor_rand_eager_offset inductor_rand_eager_offsets inductor_random
    inductor_seed inductor_seeds log_normal lstm miopen_rnn multinomial native_dropout normal
    normal_functional poisson rand rand_like randint randint_like randn randn_like random randperm
    rnn_relu rnn_tanh rrelu rrelu_with_noise rrelu_with_noise_functional uniform
    """.split()
)
_UNINITIALISED = frozenset(
    """
    _efficientzerotensor _empty_affine_quantized _empty_per_channel_affine_quantized _resize_output
    empty empty_like empty_permuted empty_quantized empty_strided new_empty new_empty_strided resize
    resize_as
    """.split()
)
_SIZES = frozenset(
    """
    dim is_contiguous numel size storage_offset stride sym_is_contiguous sym_numel sym_size
    sym_storage_offset sym_stride
    """.split()
)
_DATA_SIZED = frozenset(
    """
    _local_scalar_dense _unique2 bincount item masked_select nonzero repeat_interleave
    unique_consecutive unique_dim unique_dim_consecutive
    """.split()
)
_REDUCTIONS = frozenset(
    f"aten::{name}"
    for name in """
    all amax amin any argmax argmin logsumexp max mean min prod std sum var var_mean
    """.split()
)
_CONDITIONS = frozenset(
    """
    eq ge gt isfinite isin isinf isnan le logical_and logical_not logical_or logical_xor lt ne
    """.split()
)
_SELECTS_BY = {"where": 0, "masked_fill": 1}
_DROPOUT = {
    "scaled_dot_product_attention": 4,
    "_cudnn_attention_forward": 9,
    "_efficient_attention_forward": 8,
    "_flash_attention_forward": 7,
    "_flash_attention_forward_no_dropout_inplace": 8,
    "_scaled_dot_product_attention_math": 4,
    "_scaled_dot_product_attention_math_for_mps": 4,
    "_triton_scaled_dot_attention": 3,
    "_scaled_dot_product_flash_attention": 3,
    "_scaled_dot_product_flash_attention_for_cpu": 3,
    "_scaled_dot_product_efficient_attention": 5,
    "_scaled_dot_product_cudnn_attention": 5,
    "_scaled_dot_product_fused_attention_overrideable": 4,
}


@functools.lru_cache(maxsize=1024)
def traits_of(name: str) -> Traits:
    """The traits of an operator by its name.

    Example:
        >>> traits_of("vllm.all_reduce.default").collective
        'all_reduce'
        >>> traits_of("math.ceil").number, traits_of("_operator.getitem").number
        (True, False)
        >>> traits_of("aten.rand_like.default").deterministic
        False
    """
    outer, wraps, wrapped = name.rstrip("]").partition("[")
    if wraps:
        inner = traits_of(wrapped)
        if outer.startswith("higher_order.auto_functionalized"):
            return inner
        return replace(inner, deterministic=False)
    space, _, rest = name.partition(".")
    op = rest.partition(".")[0] if rest else name
    if op == "wait_tensor":
        return Traits(deterministic=True)
    if space not in ("aten", "prims"):
        kinds = (kind for kind in _KINDS if kind in op or kind.replace("_", "", 1) in op)
        collective = next(kinds, "other" if space in _COLLECTIVE else "")
        if collective:
            return Traits(collective)
    if space not in _COMPUTE:
        told = ("get_rank", "local_rank", "coordinate")
        return Traits(rank=any(part in op for part in told))
    plain = op.rstrip("_")
    return Traits(
        deterministic=plain not in _RANDOM and plain not in _UNINITIALISED,
        sizes=op in _SIZES,
        number=op in _SIZES or (space in _NUMBERS and name != _TAKES_APART),
        data_sized=op in _DATA_SIZED,
        condition=op in _CONDITIONS,
        selects_by=_SELECTS_BY.get(op),
        dropout=_DROPOUT.get(op),
    )


def reduces_tokens(node: fx.Node) -> bool:
    """Whether a node is a reduction without dims, or over the first: one over all tokens.

    Example:
        >>> reduces_tokens(fx.Graph().call_function(torch.ops.aten.relu.default))
        False
    """
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None or packet._qualified_op_name not in _REDUCTIONS:
        return False
    if len(node.args) < 2:
        return not node.kwargs
    dims = node.args[1]
    if isinstance(dims, (list, tuple)):
        return not dims or 0 in dims
    return type(dims) is int and dims == 0


def changes_equals(collective: fx.Node) -> bool:
    """Whether a collective makes something else of values that are the same on every rank."""
    # The group comes last, and may have any name.
    return not {"max", "min", "avg"}.intersection(
        argument for argument in collective.args[1:-1] if isinstance(argument, str)
    )
