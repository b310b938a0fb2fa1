// The operators that do a collective and the products beside it: what they take, and in what order.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "table/argument.h"

namespace spfast {

enum class FusedArgument : uint8_t {
  kDefault,  // what the schema says
  kLeft,
  kRight,   // one product's right operand
  kRights,  // all products'
  kLeftScale,
  kRightScale,
  kRightScales,
  kBias,
  kBiases,
  kResultScale,
  kResultScales,
  kOutDtype,
  kOutDtypes,
  kFast,  // one flag; of a gather a list with one a product
  kDim,
  kGroup,
  kReduceOp,
  kReturnsLeft,
  kOutputShape,
};

struct FusedSlot {
  FusedArgument argument = FusedArgument::kDefault;
  std::string keyword;    // empty: given by position
  uint32_t fallback = 0;  // of a kDefault: which of the objects that the caller holds
};

// How one operator is called; not there where this torch has none that takes what it must.
struct FusedLayout {
  TargetId target = kNone;
  std::vector<FusedSlot> slots;
  [[nodiscard]] bool is_there() const { return target != kNone; }
};

struct FusedOperators {
  FusedLayout gather;
  FusedLayout scaled_gather;
  FusedLayout scatter;
  std::array<FusedLayout, 4> scaled_scatter;  // with a bias: + 1; with a scale of the result: + 2
  bool symbolic_shape = false;                // scaled_scatter takes symbolic sizes
};

// Of a name as symmetric memory's schemas spell it; UserError of another.
[[nodiscard]] FusedArgument fused_argument(std::string_view name);

}  // namespace spfast
