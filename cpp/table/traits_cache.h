// What was found out of operators, so that each name is read once.
#pragma once

#include <vector>

#include "table/operators.h"

namespace spfast {

// The traits of a table's operators, each found out once.
class TraitsCache {
 public:
  // Defined here, for it is asked of every node and mostly takes a few instructions.
  [[nodiscard]] const OperatorTraits& of(TargetId target) {
    const bool known = target < known_.size() && known_[target];
    return known ? traits_[target] : find_out(target);
  }

 private:
  const OperatorTraits& find_out(TargetId target);

  std::vector<OperatorTraits> traits_;
  std::vector<bool> known_;
};

}  // namespace spfast
