// Which value each node stands for, once views and copies are looked through.
#pragma once

#include <cstdint>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// What each node of a table is an alias of, for streams of every width, in one pass over the
// table. A view is looked through only where the stream is as wide as its last dim. So there is one
// answer behind a view: that for its own width.
class AliasRoots {
 public:
  AliasRoots() = default;
  explicit AliasRoots(const NodeTable& table);

  [[nodiscard]] NodeId root(NodeId node, int64_t width) const {
    const NodeId plain = plain_[node];
    const uint32_t view = view_of_[plain];
    return view == kNone || views_[view].width != width ? plain : views_[view].root;
  }
  // The same through clones, copies and slices alone, whatever the width.
  [[nodiscard]] NodeId plain_root(NodeId node) const { return plain_[node]; }

 private:
  struct View {
    int64_t width;
    NodeId root;  // for streams of that width
  };
  std::vector<NodeId> plain_;
  std::vector<uint32_t> view_of_;  // index of a view that keeps rows; kNone for any other node
  std::vector<View> views_;
};

}  // namespace spfast
