// The traits of operators that all runs of the process share.
#pragma once

#include <mutex>

#include "table/traits_cache.h"

namespace spfast {

// A cache that all runs of the process share. It is locked as long as this lives, which is meant to
// be one walk over a table; to lock it at each node would take longer. Meanwhile nothing may wait
// for another thread.
class SharedTraits {
 public:
  SharedTraits();
  [[nodiscard]] const OperatorTraits& of(TargetId target) { return kept_.traits.of(target); }

 private:
  struct Kept {
    std::mutex mutex;
    TraitsCache traits;
  };
  [[nodiscard]] static Kept& kept();

  Kept& kept_;
  std::lock_guard<std::mutex> lock_;
};

}  // namespace spfast
