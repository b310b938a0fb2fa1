// Which collective runs over which group, and how the groups lie to each other.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "rewrite/collectives.h"
#include "rewrite/group_info.h"
#include "table/traits_cache.h"

namespace spfast {

// A set of groups, a bit each. Groups beyond the 63rd share the last bit.
using GroupMask = uint64_t;

inline constexpr GroupMask kAllGroups = ~GroupMask{0};

// Visits the place of each bit of a mask.
template <typename Visit>
void each_slot(GroupMask groups, Visit visit) {
  for (; groups != 0; groups &= groups - 1) {
    visit(static_cast<uint32_t>(std::countr_zero(groups)));
  }
}

[[nodiscard]] inline GroupMask slot_bit(uint32_t slot) { return GroupMask{1} << slot; }

class GroupTopology {
 public:
  // A collective and the index of its group; kNone for all other nodes, and for a group that is
  // not among those that are known.
  struct GroupCall {
    Collective kind = Collective::kNone;
    uint32_t group = kNone;
  };

  GroupTopology(const NodeTable& table, std::span<const CollectiveFamily> families,
                std::span<const GroupInfo> groups);

  [[nodiscard]] GroupCall of(NodeId node) const;
  // How many bits a mask has.
  [[nodiscard]] uint32_t slots() const { return slots_; }
  [[nodiscard]] GroupMask all() const { return slots_ < 64 ? slot_bit(slots_) - 1 : ~GroupMask{0}; }
  [[nodiscard]] uint32_t slot(uint32_t group) const { return group < kLast ? group : kLast; }
  [[nodiscard]] GroupMask bit(uint32_t group) const {
    return group == kNone ? 0 : GroupMask{1} << slot(group);
  }
  // A group and those within it. What differs among the ranks of one of these differs among the
  // group's.
  [[nodiscard]] GroupMask inner(uint32_t group) const { return at(inner_, group); }
  // A group and those around it.
  [[nodiscard]] GroupMask outer(uint32_t group) const { return at(outer_, group); }
  // The groups of which this one has one rank each. After a collective over it, the ranks of such a
  // group are as alike as they were before.
  [[nodiscard]] GroupMask crossed(uint32_t group) const { return at(crossed_, group); }
  // The group whose ranks all have what a collective yields, if it makes one value for all.
  [[nodiscard]] GroupMask shared_after(uint32_t group) const {
    return group < kLast ? bit(group) : 0;
  }
  // Whether a collective may change a value that is the same on every rank, as a sum does.
  [[nodiscard]] bool changes_equals(NodeId collective) const {
    return equals_kept_.empty() || !equals_kept_.contains(collective);
  }
  // Whether every collective does.
  [[nodiscard]] bool all_change_equals() const { return equals_kept_.empty(); }

 private:
  static constexpr uint32_t kLast = 63;

  [[nodiscard]] static GroupMask at(const std::vector<GroupMask>& masks, uint32_t group) {
    return group < masks.size() ? masks[group] : 0;
  }
  [[nodiscard]] bool keeps_equals(NodeId collective) const;
  [[nodiscard]] Argument reduce_op_of(NodeId node) const;

  const NodeTable& table_;
  std::span<const CollectiveFamily> families_;
  std::unordered_map<uint64_t, uint32_t> groups_;  // by argument_key
  mutable TraitsCache traits_;
  uint32_t slots_;
  std::vector<GroupMask> inner_, outer_, crossed_;  // by group
  std::unordered_set<NodeId> equals_kept_;  // collectives that leave equal values as they are
};

// The group that a collective names; absent where it names none.
[[nodiscard]] Argument group_of(const NodeTable& table, std::span<const CollectiveFamily> families,
                                NodeId node);

// A collective for each group that has a name and is not among the known, in graph order.
[[nodiscard]] std::vector<NodeId> find_other_groups(const NodeTable& table,
                                                    std::span<const CollectiveFamily> families,
                                                    std::span<const GroupInfo> known);

}  // namespace spfast
