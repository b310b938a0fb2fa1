// rewrite/: decides on the table what every value becomes, and writes it down as a Plan. Depends on
// base/, table/, pattern/ and match/.
//
// How one family of collectives is spelled: what an all_reduce of it becomes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "match/match.h"

namespace spfast {

// One positional argument of a collective.
struct CollectiveArg {
  enum class Kind : uint8_t { kInput, kInt, kWorldSize, kGroup, kReduceOp };
  Kind kind = Kind::kInput;
  int64_t value = 0;  // of a kInt
};

struct CollectiveFamily {
  std::string name;
  AllReduceFamily match;
  TargetId reduce_scatter = kNone;
  std::vector<CollectiveArg> reduce_scatter_args;
  TargetId all_gather = kNone;
  std::vector<CollectiveArg> all_gather_args;
};

}  // namespace spfast
