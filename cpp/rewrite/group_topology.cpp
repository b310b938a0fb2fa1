#include "rewrite/group_topology.h"

#include <algorithm>

#include "base/work.h"
#include "table/shared_traits.h"

namespace spfast {

Argument group_of(const NodeTable& table, std::span<const CollectiveFamily> families, NodeId node) {
  const auto args = table.args(node);
  const TargetId target = table.target(node);
  const auto at = [&](size_t position) {
    return position < args.size() ? args[position] : Argument{};
  };
  for (const CollectiveFamily& family : families) {
    const bool named = family.match.group >= 0;
    if (family.match.all_reduce == target) {
      return named ? at(static_cast<size_t>(family.match.group)) : kUnnamedGroup;
    }
    for (const auto& [collective, slots] :
         {std::pair{family.reduce_scatter, &family.reduce_scatter_args},
          std::pair{family.all_gather, &family.all_gather_args}}) {
      if (collective != target) continue;
      if (!named) return kUnnamedGroup;
      for (size_t i = 0; i < slots->size(); ++i) {
        if ((*slots)[i].kind == CollectiveArg::Kind::kGroup) return at(i);
      }
    }
  }
  // By torch's and vLLM's convention the group comes last.
  const auto pairs = table.kwargs(node);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    const std::string_view key = table.string(pairs[i].payload);
    if (key == "group_name" || key == "group") return pairs[i + 1];
  }
  return args.empty() ? Argument{} : args.back();
}

std::vector<NodeId> find_other_groups(const NodeTable& table,
                                      std::span<const CollectiveFamily> families,
                                      std::span<const GroupInfo> known) {
  std::vector<NodeId> found;
  std::unordered_set<uint64_t> seen;
  for (const GroupInfo& group : known) seen.insert(argument_key(group.group));
  SharedTraits traits;
  for (NodeId node = 0; node < table.size(); ++node) {
    SPFAST_WORK(1);
    if (table.op(node) != Op::kCallFunction) continue;
    if (traits.of(table.target(node)).collective == Collective::kNone) continue;
    const Argument group = group_of(table, families, node);
    if (group.tag == Tag::kString && seen.insert(argument_key(group)).second) found.push_back(node);
  }
  return found;
}

GroupTopology::GroupTopology(const NodeTable& table, std::span<const CollectiveFamily> families,
                             std::span<const GroupInfo> groups)
    : table_(table),
      families_(families),
      slots_(static_cast<uint32_t>(std::clamp<size_t>(groups.size(), 1, kLast + 1))),
      inner_(groups.size(), 0),
      outer_(groups.size(), 0),
      crossed_(groups.size(), 0) {
  for (uint32_t i = 0; i < groups.size(); ++i) {
    groups_.emplace(argument_key(groups[i].group), i);
    inner_[i] |= bit(i);
    outer_[i] |= bit(i);
    for (const uint32_t outer : groups[i].within) {
      outer_[i] |= bit(outer);
      inner_.at(outer) |= bit(i);
    }
    if (i >= kLast) continue;
    for (const uint32_t crossed : groups[i].crosses) {
      if (crossed < kLast) crossed_[i] |= bit(crossed);
    }
  }
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (of(node).kind != Collective::kNone && keeps_equals(node)) equals_kept_.insert(node);
  }
}

GroupTopology::GroupCall GroupTopology::of(NodeId node) const {
  if (table_.op(node) != Op::kCallFunction) return {};
  const Collective kind = traits_.of(table_.target(node)).collective;
  if (kind == Collective::kNone) return {};
  const auto group = groups_.find(argument_key(group_of(table_, families_, node)));
  return {kind, group == groups_.end() ? kNone : group->second};
}

// Absent where a collective has no reduce op: it is always a sum, or it reduces nothing.
Argument GroupTopology::reduce_op_of(NodeId node) const {
  const auto args = table_.args(node);
  const TargetId target = table_.target(node);
  const auto at = [&](int32_t position) {
    const bool there = position >= 0 && static_cast<size_t>(position) < args.size();
    return there ? args[static_cast<size_t>(position)] : table_.kwarg(node, "reduce_op");
  };
  for (const CollectiveFamily& family : families_) {
    if (family.match.all_reduce == target) {
      return family.match.reduce_op < 0 ? Argument{} : at(family.match.reduce_op);
    }
    if (family.reduce_scatter == target) {
      const auto& slots = family.reduce_scatter_args;
      const auto slot = std::find_if(slots.begin(), slots.end(), [](const CollectiveArg& one) {
        return one.kind == CollectiveArg::Kind::kReduceOp;
      });
      return slot == slots.end() ? Argument{} : at(static_cast<int32_t>(slot - slots.begin()));
    }
    if (family.all_gather == target) return {};
  }
  // By torch's convention it follows the operand; the group comes last.
  return at(args.size() > 2 ? 1 : -1);
}

bool GroupTopology::keeps_equals(NodeId collective) const {
  const Argument op = reduce_op_of(collective);
  if (op.tag != Tag::kString) return false;
  const std::string_view name = table_.string(op.payload);
  return name == "max" || name == "min" || name == "avg";
}

}  // namespace spfast
