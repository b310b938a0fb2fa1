// Collects the edits of a plan. It counts the uses of each node, so that nodes that lose their last
// use by the rewrite are erased with it; size arithmetic is, too.
#pragma once

#include <vector>

#include "base/check.h"
#include "rewrite/plan.h"

namespace spfast {

class EditList {
 public:
  EditList(const NodeTable& table, Plan& plan);

  NodeRef create(Created node);
  // `user` reads `now` where it read `old`, wherever that is among its operands.
  void rewire(NodeId user, NodeId old, NodeRef now);
  // `rank`: the dims that the argument counts; kNone: it names the last one.
  void set_dim(NodeId node, uint32_t argument, uint32_t rank = kNone);
  void resize(NodeId node, MetaSpec meta);
  // Erased at the end, if nothing uses it then.
  void erase_if_unused(NodeId node) {
    SPFAST_CHECK(node < erasable_.size());
    erasable_[node] = true;
  }
  // Erases what nothing uses, users first.
  void finish();

 private:
  void add_use(const PlanArg& arg);
  [[nodiscard]] bool is_size_arithmetic(NodeId node) const;

  const NodeTable& table_;
  Plan& plan_;
  std::vector<uint32_t> uses_;
  std::vector<bool> erasable_;
};

}  // namespace spfast
