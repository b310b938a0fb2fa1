// Who reads which row-wise value row by row, who reads it otherwise, and so why an all_reduce
// stays.
#pragma once

#include <span>
#include <unordered_set>
#include <vector>

#include "rewrite/layouts.h"
#include "rewrite/sites.h"

namespace spfast {

class RowUses {
 public:
  struct Use {
    NodeId root;
    NodeId user;
  };

  RowUses(const NodeTable& table, const RowRules& rules, const Sites& sites)
      : table_(table), sites_(sites), layout_(sites.layout), layouts_(table, &rules) {}

  void add(NodeId root, NodeId user) { uses_.push_back({root, user}); }
  // One that matched sites fill.
  void add_buffer(NodeId node) { buffers_.insert(node); }
  // Once all are added, before any is asked for.
  void sort();
  // Those of one value, in the order of their users.
  [[nodiscard]] std::span<const Use> of(NodeId root) const;
  // Whether every reader takes a fresh tensor for a value that lies otherwise.
  [[nodiscard]] bool may_gather(NodeId root) const;
  // Whether somebody under any name of the value needs it full whatever is cut. Sizes of it are
  // told by what the anchor reduces.
  [[nodiscard]] bool is_read_outside(NodeId root, const Anchor& anchor) const;
  // Why the all_reduce of a value stays that is better full.
  [[nodiscard]] Reason why_kept(NodeId reduced) const;

 private:
  [[nodiscard]] Reason strided_reader(NodeId root) const;
  [[nodiscard]] Reason why_no_gain(NodeId reduced) const;

  const NodeTable& table_;
  const Sites& sites_;
  const RowLayout& layout_;
  Layouts layouts_;
  std::vector<Use> uses_;  // sorted
  std::unordered_set<NodeId> buffers_;
};

}  // namespace spfast
