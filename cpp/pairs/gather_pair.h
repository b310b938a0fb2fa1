// Matrix products that read one gathered value. They become one operator, which may return that
// value as well.
#pragma once

#include <functional>
#include <optional>

#include "pairs/fused_operator.h"
#include "pairs/product.h"

namespace spfast {

struct GatherPair {
  FoundCollective gather;
  std::vector<Product> products;  // of one kind, in graph order
  std::vector<NodeId> steps;      // what is done to this rank's rows before they are gathered
  NodeId left_scale = kNone;      // of a left scale that was gathered too: this rank's rows
  std::optional<FoundCollective> scale_gather;  // goes if nothing else reads it
  std::vector<NodeId> shown;  // show the gathered rows, in graph order; without the value itself
  bool returns = false;       // whether something else reads them as well
  NodeId before = kNone;      // where the fused operator stands
  std::vector<NodeId> moved;  // nodes that have to be moved before it, in order
  const FusedLayout* layout = nullptr;
};

// The gather that yields a node; null where none does.
using GatherOf = std::function<const FoundCollective*(NodeId)>;

// The products that read a gathered value; or why there are none to fuse with.
[[nodiscard]] std::variant<GatherPair, Why> find_gather_pair(LiveGraph& graph,
                                                             const FusedOperators& operators,
                                                             const FoundCollective& gather,
                                                             const GatherOf& gather_of);

}  // namespace spfast
