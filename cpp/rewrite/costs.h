// What collectives cost, as the cut is told.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "rewrite/sites.h"

namespace spfast {

// Which part of the bytes that a collective moves hides behind the product beside it, in 1/1024: by
// the class of tokens, bytes of an element that is multiplied, and features of the stream.
using HiddenShare = std::function<int64_t(const TokenClass&, int64_t item_bytes, Dim features)>;

// What collectives cost beside the bytes that they move.
struct Costs {
  // Values that nobody need gather.
  std::vector<LocalOutput> local_outputs;
  // Of one more collective, in bytes: 6.1 us at 256 GB/s on two H200
  // (bench/gpu/collective_cost.py).
  int64_t collective = 1600000;
  HiddenShare hidden = {};  // none: nothing hides
};

}  // namespace spfast
