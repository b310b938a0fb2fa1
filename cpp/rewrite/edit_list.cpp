#include "rewrite/edit_list.h"

#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "table/targets.h"

namespace spfast {

EditList::EditList(const NodeTable& table, Plan& plan)
    : table_(table), plan_(plan), uses_(table.size()), erasable_(table.size(), false) {
  for (NodeId node = 0; node < table.size(); ++node) {
    uses_[node] = static_cast<uint32_t>(table.users(node).size());
  }
}

void EditList::add_use(const PlanArg& arg) {
  if (arg.kind == PlanArg::Kind::kNode && arg.node < table_.size()) ++uses_[arg.node];
  if (arg.kind == PlanArg::Kind::kCopy) {
    const Argument copied = table_.args(arg.node)[static_cast<size_t>(arg.value)];
    if (copied.is_node()) ++uses_[copied.payload];
  }
  for (const PlanArg& item : arg.items) add_use(item);
}

NodeRef EditList::create(Created node) {
  for (const PlanArg& arg : node.args) add_use(arg);
  const auto index = static_cast<uint32_t>(plan_.created.size());
  plan_.created.push_back(std::move(node));
  plan_.edits.push_back({Edit::Kind::kCreate, index, kNone, kNone});
  return table_.size() + index;
}

void EditList::rewire(NodeId user, NodeId old, NodeRef now) {
  if (old == now) return;
  SPFAST_CHECK(uses_[old] > 0);
  --uses_[old];
  if (now < table_.size()) {
    const auto users = table_.users(now);  // in graph order
    if (!std::binary_search(users.begin(), users.end(), user)) ++uses_[now];
  }
  plan_.edits.push_back({Edit::Kind::kRewire, user, old, now});
}

void EditList::set_dim(NodeId node, uint32_t argument, uint32_t rank) {
  plan_.edits.push_back({Edit::Kind::kSetDim, node, argument, rank});
}

void EditList::resize(NodeId node, MetaSpec meta) {
  plan_.metas.push_back(meta);
  plan_.edits.push_back(
      {Edit::Kind::kResize, node, static_cast<uint32_t>(plan_.metas.size() - 1), kNone});
}

bool EditList::is_size_arithmetic(NodeId node) const {
  static const TargetId kSizes[] = {
      intern_target("aten.sym_size.int"),  intern_target("_operator.mul"),
      intern_target("_operator.add"),      intern_target("_operator.sub"),
      intern_target("_operator.floordiv"), intern_target("_operator.mod"),
  };
  return table_.op(node) == Op::kCallFunction &&
         std::find(std::begin(kSizes), std::end(kSizes), table_.target(node)) != std::end(kSizes);
}

void EditList::finish() {
  // The rewired operands of nodes that may be erased: by node and old operand, what it reads now.
  std::unordered_map<uint64_t, NodeRef> rewired;
  for (const Edit& edit : plan_.edits) {
    if (edit.kind == Edit::Kind::kRewire && (erasable_[edit.a] || is_size_arithmetic(edit.a))) {
      rewired.emplace(pair_key(edit.a, edit.b), edit.c);
    }
  }
  std::vector<NodeId> counted_by(table_.size(), kNone);  // a node reads each operand once
  for (NodeId node = table_.size(); node-- > 0;) {
    if (!erasable_[node] || uses_[node] > 0) continue;
    plan_.edits.push_back({Edit::Kind::kErase, node, kNone, kNone});
    for (const Argument value : table_.operands(node)) {
      if (!value.is_node() || counted_by[value.payload] == node) continue;
      counted_by[value.payload] = node;
      NodeId operand = value.payload;
      if (const auto now = rewired.find(pair_key(node, operand)); now != rewired.end()) {
        // What was created has a reader that stays, or it would not have been created.
        if (now->second >= table_.size()) continue;
        operand = now->second;
      }
      SPFAST_CHECK(uses_[operand] > 0);
      if (--uses_[operand] == 0 && is_size_arithmetic(operand)) erasable_[operand] = true;
    }
  }
}

}  // namespace spfast
