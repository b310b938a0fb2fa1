// What is known of whether the ranks of a group have the same value, and what may be taken on
// trust.
#pragma once

#include <cstdint>
#include <vector>

#include "table/argument.h"

namespace spfast {

enum class Sharing : uint8_t {
  kUnknown,     // an input, or computed from one
  kReplicated,  // by proof: the same on every rank
  kOwn,         // by the graph's own evidence: one rank's
};

// What may be taken on trust.
struct Trust {
  bool unknown = true;                  // values of which nothing is known
  std::vector<NodeId> replicated = {};  // inputs that somebody vouches for
  std::vector<NodeId> own = {};         // sorted: what other graphs show to be each rank's own
  std::vector<NodeId> writers = {};     // sorted: calls of graphs that write such values
  std::vector<NodeId> numbers = {};     // sorted: inputs that are numbers, and no input's size
};

}  // namespace spfast
