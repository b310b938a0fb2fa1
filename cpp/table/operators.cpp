#include "table/operators.h"

#include <algorithm>
#include <string>
#include <utility>

#include "table/targets.h"

namespace spfast {
namespace {

template <size_t N>
bool any_of(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Namespaces whose operators compute from their operands alone, except those named below.
constexpr std::string_view kDeterministicNamespaces[] = {
    "aten", "prims", "_operator", "math", "builtins", "torch", "quantized_decomposed", "vllm_ir",
};

// Whose functions compute numbers in a graph of operators; _operator.getitem takes any value apart.
constexpr std::string_view kNumberNamespaces[] = {"_operator", "math", "builtins", "torch"};

// Without the underscore of their in-place forms.
constexpr std::string_view kRandom[] = {
    "_cudnn_rnn",
    "_fused_dropout",
    "_lstm_mps",
    "_sample_dirichlet",
    "_standard_gamma",
    "alpha_dropout",
    "bernoulli",
    "binomial",
    "cauchy",
    "dropout",
    "exponential",
    "feature_dropout",
    "feature_alpha_dropout",
    "geometric",
    "gru",
    "inductor_rand_eager_offset",
    "inductor_rand_eager_offsets",
    "inductor_random",
    "inductor_randint",
    "inductor_seed",
    "inductor_seeds",
    "log_normal",
    "lstm",
    "miopen_rnn",
    "multinomial",
    "native_dropout",
    "normal",
    "normal_functional",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random",
    "randperm",
    "rnn_relu",
    "rnn_tanh",
    "rrelu",
    "rrelu_with_noise",
    "rrelu_with_noise_functional",
    "uniform",
};

// Operators that yield fresh memory: nobody knows what it holds.
constexpr std::string_view kUninitialised[] = {
    "_efficientzerotensor",
    "_empty_affine_quantized",
    "_empty_per_channel_affine_quantized",
    "_resize_output",
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_quantized",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize",
    "resize_as",
};

constexpr std::string_view kSizes[] = {
    "size",          "stride",     "numel",     "storage_offset",     "dim",
    "sym_size",      "sym_stride", "sym_numel", "sym_storage_offset", "sym_is_contiguous",
    "is_contiguous",
};

constexpr std::string_view kDataSized[] = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "item",
    "masked_select",
    "nonzero",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "unique_dim_consecutive",
};

constexpr std::string_view kConditions[] = {
    "eq", "ge",          "gt",          "isfinite",   "isin",        "isinf", "isnan",
    "le", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",    "ne",
};

struct Dropout {
  std::string_view name;
  int8_t position;
};
constexpr Dropout kAttention[] = {
    {"scaled_dot_product_attention", 4},
    {"_cudnn_attention_forward", 9},
    {"_efficient_attention_forward", 8},
    {"_flash_attention_forward", 7},
    {"_flash_attention_forward_no_dropout_inplace", 8},
    {"_scaled_dot_product_attention_math", 4},
    {"_scaled_dot_product_attention_math_for_mps", 4},
    {"_triton_scaled_dot_attention", 3},
    {"_scaled_dot_product_flash_attention", 3},
    {"_scaled_dot_product_flash_attention_for_cpu", 3},
    {"_scaled_dot_product_efficient_attention", 5},
    {"_scaled_dot_product_cudnn_attention", 5},
    {"_scaled_dot_product_fused_attention_overrideable", 4},
};

constexpr std::pair<std::string_view, PartBy> kParts[] = {
    {"chunk", PartBy::kSplit},
    {"gather", PartBy::kIndex},
    {"narrow", PartBy::kNarrow},
    {"narrow_copy", PartBy::kNarrow},
    {"select", PartBy::kSelect},
    {"select_copy", PartBy::kSelect},
    {"slice", PartBy::kSlice},
    {"slice_copy", PartBy::kSlice},
    {"split", PartBy::kSplit},
    {"split_copy", PartBy::kSplit},
    {"split_with_sizes", PartBy::kSplit},
    {"split_with_sizes_copy", PartBy::kSplit},
    {"unbind", PartBy::kUnbind},
};

bool has(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

Collective collective_of(std::string_view space, std::string_view op) {
  if (space == "aten" || space == "prims" || op == "wait_tensor") return Collective::kNone;
  // The gathered value is multiplied by a weight of each rank's own.
  if (has(op, "all_gather_matmul") || has(op, "all_gather_scaled_matmul"))
    return Collective::kOther;
  if (has(op, "all_reduce") || has(op, "allreduce")) return Collective::kAllReduce;
  if (has(op, "reduce_scatter")) return Collective::kReduceScatter;
  if (has(op, "all_gather") || has(op, "allgather")) return Collective::kAllGather;
  if (has(op, "all_to_all") || has(op, "alltoall")) return Collective::kAllToAll;
  constexpr std::string_view kSpaces[] = {"_c10d_functional", "_c10d_functional_autograd", "c10d",
                                          "c10d_functional", "symm_mem"};
  return any_of(kSpaces, space) ? Collective::kOther : Collective::kNone;
}

}  // namespace

OperatorTraits operator_traits(std::string_view name) {
  // A higher-order operator is what it wraps: "higher_order.auto_functionalized[_C.f.default]".
  if (const size_t open = name.find('['); open != std::string_view::npos) {
    OperatorTraits wrapped = operator_traits(name.substr(open + 1, name.size() - open - 2));
    if (!name.starts_with("higher_order.auto_functionalized")) wrapped.deterministic = false;
    return wrapped;
  }
  const size_t first = name.find('.');
  const std::string_view space = name.substr(0, first);
  std::string_view op = first == std::string_view::npos ? name : name.substr(first + 1);
  op = op.substr(0, op.find('.'));
  OperatorTraits traits;
  traits.collective = collective_of(space, op);
  if (traits.collective != Collective::kNone) return traits;
  if (op == "wait_tensor") {
    traits.deterministic = true;
    return traits;
  }
  traits.deterministic = any_of(kDeterministicNamespaces, space);
  traits.rank = !traits.deterministic &&
                (has(op, "get_rank") || has(op, "local_rank") || has(op, "coordinate"));
  if (!traits.deterministic) return traits;
  std::string_view plain = op;
  while (plain.size() > 1 && plain.back() == '_') plain.remove_suffix(1);
  if (any_of(kRandom, plain) || any_of(kUninitialised, plain)) traits.deterministic = false;
  traits.sizes = any_of(kSizes, op);
  traits.number = traits.sizes || (any_of(kNumberNamespaces, space) && name != "_operator.getitem");
  traits.data_sized = any_of(kDataSized, op);
  traits.condition = any_of(kConditions, op);
  if (op == "where") traits.selects_by = 0;
  if (op == "masked_fill") traits.selects_by = 1;
  for (const auto& [part, by] : kParts) {
    if (op == part) traits.takes_part = by;
  }
  for (const Dropout& one : kAttention) {
    if (op == one.name) traits.dropout = one.position;
  }
  return traits;
}

}  // namespace spfast
