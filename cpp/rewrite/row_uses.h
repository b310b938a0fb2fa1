// Which readers read a row-wise value row by row, and which otherwise. The latter are why an
// all_reduce stays.
#pragma once

#include <span>
#include <unordered_set>
#include <vector>

#include "match/match.h"
#include "rewrite/layouts.h"
#include "rewrite/rowwise_rules.h"
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
  // Adds a buffer that matched sites write to.
  void add_buffer(NodeId node) { buffers_.insert(node); }
  // To be called once all uses are added, and before any is asked for.
  void sort();
  // The uses of one value, in the order of their users.
  [[nodiscard]] std::span<const Use> of(NodeId root) const;
  // Whether a value may be gathered though its strides are not those of a fresh tensor: no reader
  // may see the difference.
  [[nodiscard]] bool may_gather(NodeId root) const;
  // Whether a reader of the value, or of a view or copy of it, needs it in full whatever is cut.
  // Who asks for its sizes alone does not: what the anchor reduces has them.
  [[nodiscard]] bool is_read_outside(NodeId root, const Anchor& anchor) const;
  // Why an all_reduce stays whose result is better full.
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
