#include "pairs/fused_operator.h"

#include <utility>

#include "base/check.h"

namespace spfast {

FusedArgument fused_argument(std::string_view name) {
  using enum FusedArgument;
  static constexpr std::pair<std::string_view, FusedArgument> kNames[] = {
      {"A", kLeft},
      {"B", kRight},
      {"Bs", kRights},
      {"A_scale", kLeftScale},
      {"B_scale", kRightScale},
      {"B_scales", kRightScales},
      {"bias", kBias},
      {"biases", kBiases},
      {"result_scale", kResultScale},
      {"result_scales", kResultScales},
      {"out_dtype", kOutDtype},
      {"out_dtypes", kOutDtypes},
      {"gather_dim", kDim},
      {"scatter_dim", kDim},
      {"orig_scatter_dim", kDim},
      {"scatter_dim_after_maybe_reshape", kDim},
      {"group_name", kGroup},
      {"reduce_op", kReduceOp},
      {"return_A", kReturnsLeft},
      {"output_shape", kOutputShape},
      {"use_fast_accum", kFast},
  };
  for (const auto& [known, argument] : kNames) {
    if (known == name) return argument;
  }
  throw UserError("a fused operator has the unknown argument '" + std::string(name) + "'");
}

}  // namespace spfast
