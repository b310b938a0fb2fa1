// match/: the machine that runs programs over a table. Depends on base/, table/ and pattern/.
//
// Between the operations of a pattern there may be noise, which is looked through. A view that
// keeps the last dim is noise: it keeps every token's row whole and in order, whatever the leading
// dims become. So are clone, alias, detach, a slice of everything, and functionalised copies: they
// change nothing.
#pragma once

#include <cstdint>
#include <optional>
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

// The same for tensors whose last dim is `width`. Holds no memory; the AliasRoots must outlive it.
class LookThrough {
 public:
  LookThrough() = default;
  LookThrough(const AliasRoots& roots, int64_t width) : roots_(&roots), width_(width) {}
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] NodeId root(NodeId node) const { return roots_->root(node, width_); }
  [[nodiscard]] NodeId plain_root(NodeId node) const { return roots_->plain_root(node); }
  [[nodiscard]] bool is_noise(NodeId node) const { return root(node) != node; }
  // How wide a stream has to be that a view is looked through; absent for a node whose source does
  // not depend on it.
  [[nodiscard]] static std::optional<int64_t> width_of(const NodeTable& table, NodeId node);
  // Whether a node asks for a memory format such as channels_last, which fits one number of dims.
  [[nodiscard]] static bool wants_format(const NodeTable& table, NodeId node);
  // The node that a noise node is a view or copy of; kNone for any other.
  [[nodiscard]] static NodeId source(const NodeTable& table, NodeId node, int64_t width);

 private:
  const AliasRoots* roots_ = nullptr;
  int64_t width_ = 0;
};

}  // namespace spfast
