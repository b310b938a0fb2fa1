// A matrix product whose sum over the ranks is scattered: one operator.
#pragma once

#include "pairs/fused_operator.h"
#include "pairs/product.h"

namespace spfast {

struct ScatterPair {
  FoundCollective scatter;
  Product product;
  std::vector<Product> added;  // to the product, in this order, before the sum is scattered
  bool each = false;           // each is an operator of its own, and their results are added
  NodeId result = kNone;       // whose place the fused operator takes
  std::vector<NodeId> inside;  // everything that goes, in graph order but for the collective's own
  bool apart = false;          // the rows are scattered along another dim than the first
  const FusedLayout* layout = nullptr;
};

// The product that a reduce_scatter sums; or why there is none to fuse with.
[[nodiscard]] std::variant<ScatterPair, Why> find_scatter_pair(LiveGraph& graph,
                                                               const FusedOperators& operators,
                                                               const FoundCollective& scatter);

}  // namespace spfast
