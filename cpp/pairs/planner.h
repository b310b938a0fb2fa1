// One run over one graph: finds the pairs, and plans one operator for each that is worth it.
#pragma once

#include <functional>
#include <vector>

#include "pairs/collective.h"
#include "pairs/fused_operator.h"
#include "pairs/pair_plan.h"

namespace spfast {

// What the core cannot know.
struct PairPolicy {
  struct Group {
    std::string problem;  // not empty: why its collectives stay
    uint32_t name = 0;    // which of the given objects is the group's name
  };
  // Asked once for each group; the call is one that names it.
  std::function<Group(Argument group, NodeId call)> group;
  // Why a pair is not worth fusing, or cannot be; empty: it is fused. `operand` is like what its
  // first product multiplies; tokens over all ranks, and the features of the stream.
  std::function<std::string(Argument group, NodeId operand, Dim tokens, Dim features)> worth;
};

[[nodiscard]] PairPlan plan_pairs(NodeTable& table, MetaSource& source,
                                  const std::vector<CollectiveForm>& forms,
                                  const FusedOperators& operators, const PairPolicy& policy);

}  // namespace spfast
