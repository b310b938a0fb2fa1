// match/: the machine that runs programs over a table. Depends on base/, table/ and pattern/.
//
// Between the operations of a pattern there may be noise, which is looked through. A view that
// keeps the last dim is noise: it keeps every token's row whole and in order, whatever the leading
// dims become. So are clone, alias, detach, a slice of everything, and functionalised copies: they
// change nothing.
#pragma once

#include <cstdint>
#include <optional>

#include "match/alias_roots.h"
#include "table/node_table.h"

namespace spfast {

// What is looked through for tensors whose last dim is `width`. Holds no memory; the AliasRoots
// must outlive it.
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
