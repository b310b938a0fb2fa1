// Finds the anchors of a table, runs the machine at each, and settles which match each anchor gets.
#pragma once

#include <span>
#include <vector>

#include "match/match.h"

namespace spfast {

// Every all_reduce in graph order. Its meta need not be known yet. `listed`, in graph order, are
// the calls in place or of several tensors that count; a part of such a call is an all_reduce.
[[nodiscard]] std::vector<Anchor> find_anchors(const NodeTable& table,
                                               std::span<const AllReduceFamily> families,
                                               std::span<const NodeId> listed = {});

// The meta of every anchor's all_reduce must be known. At one anchor the rule of highest priority
// wins, then the longest that leaves the fewest values to be gathered (choice.h). Two anchors may
// want the same operation, such as an add of two all_reduces. The later one gets it: the earlier
// one's value is its residual.
[[nodiscard]] MatchResult find_matches(const NodeTable& table, const ProgramSet& programs,
                                       std::span<const AllReduceFamily> families,
                                       std::span<const NodeId> listed = {});

}  // namespace spfast
