#include "table/traits_cache.h"

#include "table/targets.h"

namespace spfast {

const OperatorTraits& TraitsCache::find_out(TargetId target) {
  if (target >= known_.size()) {
    known_.resize(size_t{target} + 1, false);
    traits_.resize(size_t{target} + 1);
  }
  traits_[target] = operator_traits(target_name(target));
  known_[target] = true;
  return traits_[target];
}

}  // namespace spfast
