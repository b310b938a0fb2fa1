// match/: the machine that runs programs over a table. Depends on base/, table/ and pattern/.
//
// Noise between the operations of a pattern is looked through by meaning: a view that keeps the
// last dim keeps every token's row whole and in order, whatever the leading dims become; clone,
// alias, detach, a slice of everything and functionalised copies change nothing at all.
#pragma once

#include <cstdint>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// For tensors whose last dim is `width`, the node that each node is another name of (itself, if it
// is none). Computed once for a graph and width, in one pass.
class LookThrough {
 public:
  LookThrough(const NodeTable& table, int64_t width);
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] NodeId root(NodeId node) const { return root_[node]; }
  [[nodiscard]] bool is_noise(NodeId node) const { return root_[node] != node; }
  // The node that a noise node is a view or copy of; kNone for any other.
  [[nodiscard]] static NodeId source(const NodeTable& table, NodeId node, int64_t width);

 private:
  int64_t width_;
  std::vector<NodeId> root_;
};

}  // namespace spfast
