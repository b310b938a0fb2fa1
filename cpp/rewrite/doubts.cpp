// Another rank may have other literals. What is proved from literals is doubted where a collective
// shows that it must differ.
#include <algorithm>

#include "base/work.h"
#include "rewrite/lone_parts.h"
#include "rewrite/matrix_products.h"
#include "rewrite/replication.h"
#include "table/targets.h"

namespace spfast {

void Replication::doubt_constants() {
  each_reduced([&](NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen) {
    if (!is_proved(value, group)) return;
    walk_behind(value, group, collective, seen, [&](NodeId node, bool constant) {
      if (constant) doubt(node, group, collective);
    });
  });
}

void Replication::doubt_parts() {
  bool any = false;
  for (NodeId node = 0; node < table_.size() && !any; ++node) {
    any = table_.op(node) == Op::kCallFunction && traits(node).takes_part != PartBy::kNone;
  }
  if (!any) return;
  // By node: the groups whose collectives it is computed from.
  std::vector<GroupMask> from(table_.size(), 0);
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kCallFunction) continue;
    const auto [kind, group] = topology_.of(node);
    if (kind != Collective::kNone) from[node] = topology_.bit(group);
    if (!is_deterministic(node)) continue;
    for (const Argument value : table_.operands(node)) {
      if (value.is_node()) from[node] |= from[value.payload];
    }
  }
  struct Found {
    NodeId node;
    GroupMask group;
    NodeId collective;
  };
  std::vector<Found> found;
  std::vector<GroupMask> reached(table_.size(), 0);
  each_reduced([&](NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen) {
    walk_behind(value, group, collective, seen, [&](NodeId node, bool) {
      reached[node] |= group;
      const bool part = traits(node).takes_part != PartBy::kNone && (from[node] & group) != 0;
      if (part) found.push_back({node, group, collective});
    });
  });
  for (uint32_t slot = 0; slot < topology_.slots() && !found.empty(); ++slot) {
    const GroupMask one = slot_bit(slot);
    const auto lone =
        find_lone_parts(table_, traits_, [&](NodeId node) { return (reached[node] & one) != 0; });
    for (const Found& part : found) {
      if (part.group != one || !std::binary_search(lone.begin(), lone.end(), part.node)) continue;
      doubt(part.node, part.group, part.collective);
    }
    lone_parts_.insert(lone_parts_.end(), lone.begin(), lone.end());
  }
  std::sort(lone_parts_.begin(), lone_parts_.end());
}

void Replication::doubt_sums() {
  bool any = false;
  factors_.clear();
  each_reduced([&](NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen) {
    if (!is_proved(value, group) || !topology_.changes_equals(collective)) return;
    std::vector<NodeId> pending{value};
    seen.resize(table_.size(), 0);
    while (!pending.empty()) {
      const NodeId node = pending.back();
      pending.pop_back();
      SPFAST_WORK(1);
      if ((seen[node] & group) != 0 || !is_deterministic(node) || is_number(node)) continue;
      seen[node] |= group;
      if (!is_alias(node)) {  // an alias is what it stands for
        doubt(node, group, collective);
        any = true;
      }
      if (!treats_rows_alone(node)) continue;
      for (const Argument operand : table_.operands(node)) {
        if (operand.is_node()) pending.push_back(operand.payload);
      }
    }
  });
  if (any) prove_again();
}

bool Replication::is_linear(NodeId node) const {
  static const TargetId kLinear[] = {
      intern_target("aten.add.Tensor"),
      intern_target("aten.sub.Tensor"),
      intern_target("aten.neg.default"),
      intern_target("aten.t.default"),
      intern_target("aten.transpose.int"),
      intern_target("aten.permute.default"),
      intern_target("prims.convert_element_type.default"),
      intern_target("aten._to_copy.default"),
  };
  if (is_alias(node)) return true;
  const TargetId target = table_.target(node);
  return std::find(std::begin(kLinear), std::end(kLinear), target) != std::end(kLinear);
}

void Replication::find_products() {
  std::vector<GroupMask> seen;
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kCallFunction) continue;
    const auto [kind, group] = topology_.of(node);
    const bool sums = kind == Collective::kAllReduce || kind == Collective::kReduceScatter;
    if (!sums || group == kNone || !topology_.changes_equals(node)) continue;
    const GroupMask one = topology_.bit(group);
    seen.resize(table_.size(), 0);
    std::vector<NodeId> pending;
    const auto add_operands = [&](NodeId of) {
      for (const Argument value : table_.operands(of)) {
        if (value.is_node()) pending.push_back(value.payload);
      }
    };
    add_operands(node);
    while (!pending.empty()) {
      const NodeId current = pending.back();
      pending.pop_back();
      SPFAST_WORK(1);
      if (table_.op(current) != Op::kCallFunction || (seen[current] & one) != 0) continue;
      seen[current] |= one;
      if (is_linear(current)) {
        add_operands(current);
      } else if (const NodeId left =
                     left_operand(table_, current, product_kind(table_.target(current)));
                 product_kind(table_.target(current)) != ProductKind::kNone && left != kNone) {
        factors_.push_back({left, node, one});
      }
    }
  }
}

template <typename Of>
void Replication::each_reduced(Of of) {
  // Through whatever computes, and through operators that treat rows alone.
  std::vector<GroupMask> seen;
  std::vector<GroupMask> seen_by_rows;
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kCallFunction) continue;
    if (traits(node).collective == Collective::kNone) continue;
    const auto [kind, group] = topology_.of(node);
    const bool tells = kind == Collective::kAllReduce || kind == Collective::kReduceScatter ||
                       kind == Collective::kAllGather;
    if (!tells || group == kNone) continue;
    for (const Argument value : table_.operands(node)) {
      if (!value.is_node()) continue;
      of(value.payload, topology_.bit(group), node,
         topology_.changes_equals(node) ? seen : seen_by_rows);
    }
  }
  for (const Factor& one : factors_) of(one.left, one.group, one.collective, seen);
}

template <typename Of>
void Replication::walk_behind(NodeId value, GroupMask group, NodeId collective,
                              std::vector<GroupMask>& seen, Of of) {
  std::vector<NodeId> pending{value};
  while (!pending.empty()) {
    const NodeId node = pending.back();
    pending.pop_back();
    SPFAST_WORK(1);
    if (!is_deterministic(node) || is_number(node)) continue;
    seen.resize(table_.size(), 0);
    if ((seen[node] & group) == group) continue;
    seen[node] |= group;
    bool constant = true;
    const bool follows = topology_.changes_equals(collective) || treats_rows_alone(node);
    for (const Argument operand : table_.operands(node)) {
      if (!operand.is_node() || is_number(operand.payload)) continue;
      constant = false;
      if (follows || is_constant(operand.payload)) pending.push_back(operand.payload);
    }
    of(node, constant);
  }
}

// Whether a value is computed of literals and sizes alone.
bool Replication::is_constant(NodeId value) {
  if (constants_.empty()) {
    constants_.assign(table_.size(), false);
    for (NodeId node = 0; node < table_.size(); ++node) {
      const auto operands = table_.operands(node);
      constants_[node] =
          is_deterministic(node) &&
          std::all_of(operands.begin(), operands.end(), [&](Argument one) {
            return !one.is_node() || is_number(one.payload) || constants_[one.payload];
          });
    }
  }
  return constants_[value];
}

void Replication::doubt(NodeId node, GroupMask group, NodeId collective) {
  if (doubted_.empty()) doubted_.assign(evidence_.size(), kNone);
  each_slot(group,
            [&](uint32_t slot) { doubted_[size_t{node} * topology_.slots() + slot] = collective; });
}

}  // namespace spfast
