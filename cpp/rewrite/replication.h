// What the ranks of a group are known to share. A value may meet a shard, cut to this rank's rows
// or as it is, only if every rank holds the same: else each rank would finish another value.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "rewrite/effects.h"
#include "rewrite/group_info.h"
#include "rewrite/group_topology.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sharing.h"
#include "rewrite/storage_contents.h"
#include "table/traits_cache.h"

namespace spfast {

// Tells which values all ranks share, and which are each rank's own. The evidence is the graph: an
// all_reduce, gather or scatter of a value that all ranks share would be for nothing. So what
// reaches one is taken to be a rank's own.
// - Blame goes back through operators that treat each row alone. Among their operands it goes to
//   those most likely to be partial.
// - Blame goes back through any deterministic operator whose other operands are shared.
// - The maximum, the minimum or the average of equal values is that value. A quantisation is
//   synchronised in this way, by a maximum over all tokens. Such a collective blames only through
//   operators that treat rows alone.
// - A condition that selects what is reduced is blamed, too. It says which rows, or which part of a
//   table, are the rank's own.
// - What is computed from a rank's own value is its own as well. What differs within a group
//   differs in each group around it. A collective over another group does not change that.
// - What is written to memory is followed to whoever reads it there, through any alias.
// - What is made of constants and shared values is shared. If a collective shows otherwise, the
//   constants are a rank's own.
class Replication {
 public:
  Replication(const NodeTable& table, const Effects& effects, const RowRules& rows,
              std::span<const CollectiveFamily> families, std::span<const GroupInfo> groups,
              Trust trust);

  [[nodiscard]] Sharing of(NodeId value, uint32_t group) const {
    if (is_proved(value, topology_.bit(group))) return Sharing::kReplicated;
    return apart(value, group) != 0 ? Sharing::kOwn : Sharing::kUnknown;
  }
  // The groups whose ranks are proved to share a value.
  [[nodiscard]] GroupMask proved(NodeId value) const { return proved_[value]; }
  // Whether a value that is no shard may be read beside one. If something wrote to it before the
  // read, nothing is known of what is read.
  [[nodiscard]] bool may_meet_shards(NodeId value, NodeId reader, uint32_t group) const {
    if (changed_before(value, reader) != kNone) return false;
    const Sharing sharing = of(value, group);
    return sharing == Sharing::kReplicated || (sharing == Sharing::kUnknown && trust_.unknown);
  }
  // What wrote to a value before it is read; kNone: nothing did.
  [[nodiscard]] NodeId changed_before(NodeId value, NodeId reader) const {
    return effects_.writer_before(value, reader);
  }
  // Whether a value is each rank's own in some group.
  [[nodiscard]] bool is_own_anywhere(NodeId value) const {
    return (own_[value] | scattered_[value]) != 0;
  }
  // Whether what is written to the memory of a value is each rank's own.
  [[nodiscard]] bool is_written_own(NodeId value) const {
    const StorageContents::Contents* contents = written_.find(effects_.written_storage(value));
    return contents != nullptr && (contents->own | contents->scattered) != 0;
  }
  // Whether that is shown by what reads it, not by what it is computed from.
  [[nodiscard]] bool is_shown_by_readers(NodeId value) const;
  // The collective that gives away that a value is a rank's own in a group, or the value of which
  // another graph shows it.
  [[nodiscard]] NodeId evidence(NodeId value, uint32_t group) const;
  // Nothing that is not proved meets a shard from now on.
  void trust_nothing() { trust_.unknown = false; }
  // Notes that a value turned out to be a rank's own, with its aliases. False if that was known.
  bool refute(NodeId value, uint32_t group, NodeId evidence);
  // Marks what is computed from values that turned out to be a rank's own.
  void spread();

  [[nodiscard]] const GroupTopology& topology() const { return topology_; }
  [[nodiscard]] const Effects& effects() const { return effects_; }
  // Of the groups whose ranks share a node's operands, those that may share what it yields.
  [[nodiscard]] GroupMask kept(NodeId node) const;
  // Ranks that have the same operands have the same result.
  [[nodiscard]] bool is_deterministic(NodeId node) const;
  [[nodiscard]] bool treats_rows_alone(NodeId node) const;
  // Whether the literals of a node may differ among the ranks, so that it yields another value on
  // each from what they share.
  [[nodiscard]] bool is_own_by_literals(NodeId node, uint32_t group) const {
    if (doubted_.empty() || of(node, group) != Sharing::kOwn) return false;
    const auto first = doubted_.begin() + static_cast<ptrdiff_t>(size_t{node} * topology_.slots());
    return std::any_of(first, first + topology_.slots(),
                       [](NodeId collective) { return collective != kNone; });
  }
  // Whether a node takes a part of every row, which may be another one on each rank.
  [[nodiscard]] bool is_lone_part(NodeId node) const {
    return std::binary_search(lone_parts_.begin(), lone_parts_.end(), node);
  }
  // A view or a copy.
  [[nodiscard]] bool is_alias(NodeId node) const;

 private:
  [[nodiscard]] bool is_proved(NodeId value, GroupMask one) const {
    return (proved_[value] & one) != 0;
  }
  // The groups that make a value a rank's own in a group. What was scattered over a group is apart
  // in every other, unless the two are known to cross.
  [[nodiscard]] GroupMask apart(NodeId value, uint32_t group) const {
    return (own_[value] & topology_.inner(group)) | (scattered_[value] & ~topology_.crossed(group));
  }
  [[nodiscard]] NodeId& evidence_at(NodeId value, uint32_t slot) {
    return evidence_[size_t{value} * topology_.slots() + slot];
  }
  [[nodiscard]] uint8_t& suspicion_at(NodeId value, uint32_t slot) {
    return suspicion_[size_t{value} * topology_.slots() + slot];
  }
  void prove();
  // Doubts constants. If they were the same on every rank, a collective would be for nothing. So
  // each rank may have literals of its own.
  void doubt_constants();
  // The same of parts of rows: each rank may take another part of what all share.
  void doubt_parts();
  // Doubts what a sum would be for nothing on, where no literal was found that tells the ranks
  // apart. All that it is computed from by operators that treat rows alone is doubted with it.
  void doubt_sums();
  // Finds the left operands of products that are summed over a group. If one were the same on every
  // rank, the weights would be parts of a sum. Nobody stores weights so.
  void find_products();
  [[nodiscard]] bool is_linear(NodeId node) const;
  // Calls `of` with each value that is reduced or gathered, the group, the collective, and a place
  // to note what was seen behind such ones.
  template <typename Of>
  void each_reduced(Of of);
  // Walks back from the operand of a collective, through all that would have to differ among the
  // ranks. Calls `of` with each node, and whether it reads numbers alone.
  template <typename Of>
  void walk_behind(NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen,
                   Of of);
  [[nodiscard]] bool is_constant(NodeId value);
  void doubt(NodeId node, GroupMask group, NodeId collective);
  // Proves anew, without what is doubted.
  void prove_again();
  [[nodiscard]] bool is_number(NodeId node) const;
  void prove_after(NodeId collective);
  void blame();
  void rate();
  void rate_call(NodeId node);
  void mark_own(NodeId value, GroupMask groups, NodeId collective) {
    own_[value] |= note(value, groups, collective);
  }
  [[nodiscard]] GroupMask note(NodeId value, GroupMask groups, NodeId collective);
  void blame_collective(NodeId node);
  void blame_operands(NodeId node, uint32_t slot);
  void blame_conditions(NodeId node, uint32_t slot);
  // Marks a value as a rank's own, for what it goes into and not only for what selects by it.
  void accuse(NodeId value, GroupMask groups, NodeId collective) {
    selects_[value] &= ~groups;
    accuse_read(value, groups, collective);
  }
  // The same of a value, and of what was written to its memory.
  void accuse_read(NodeId value, GroupMask groups, NodeId collective);
  void accuse_operands(NodeId node, GroupMask groups, NodeId collective);
  [[nodiscard]] GroupMask conditions_read(NodeId node) const;
  void follow_own(NodeId node);
  void follow_contents(NodeId node, NodeId storage, GroupMask ended);
  // An input that the graph leaves with a rank's own value had one when it came: what one call
  // writes, the next one reads.
  void carry_over();
  // Notes that what a node wrote is a rank's own, or not proved to be shared, for readers through
  // another alias.
  void keep_written(NodeId node);
  // Blames what a node wrote, if what is read later through another alias is a rank's own.
  void blame_written(NodeId node);
  // Whether a size depends on data: how many elements were selected, say.
  [[nodiscard]] bool is_data(NodeId size) const;
  [[nodiscard]] bool is_told(NodeId value) const {
    return std::binary_search(trust_.own.begin(), trust_.own.end(), value);
  }
  [[nodiscard]] bool writes_rows_alone(NodeId node) const;
  // The operand of which nothing is left, as another is copied over it.
  [[nodiscard]] NodeId overwritten(NodeId node) const;
  // The groups over which all of the node's operands are proved to be the same, as they are after
  // what was written to them so far.
  [[nodiscard]] GroupMask common_groups(NodeId node) const;
  [[nodiscard]] bool reduces_tokens(NodeId node, const RowRule& rule) const;
  [[nodiscard]] const OperatorTraits& traits(NodeId node) const {
    return traits_.of(table_.target(node));
  }

  const NodeTable& table_;
  const Effects& effects_;
  const RowRules& rows_;
  GroupTopology topology_;
  Trust trust_;
  mutable TraitsCache traits_;
  // By node: the groups whose ranks all have it, those of which each rank is shown to have its own,
  // and those over which it was scattered and not gathered since.
  std::vector<GroupMask> proved_;
  std::vector<GroupMask> own_;
  std::vector<GroupMask> scattered_;
  std::vector<NodeId> evidence_;    // by node and group
  std::vector<NodeId> doubted_;     // by node and group: what shows it; empty if nothing does
  std::vector<NodeId> lone_parts_;  // sorted
  struct Factor {
    NodeId left;
    NodeId collective;
    GroupMask group;
  };
  std::vector<bool> constants_;        // by node, once asked for
  std::vector<Factor> factors_;        // of products that are summed
  std::vector<uint8_t> suspicion_;     // by node and group
  std::vector<GroupMask> conditions_;  // whether each of its elements says that something holds
  std::vector<GroupMask>
      selects_;  // a rank's own only for what selects by it; what it compares need not be
  StorageContents written_;  // forward: what was written so far
  StorageContents read_;     // backward: what is read from here on
};

}  // namespace spfast
