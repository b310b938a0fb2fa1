// What the ranks of a group are known to share. A value may meet a shard, cut to this rank's rows
// or as it is, only if every rank holds the same: else each rank would finish another value.
#pragma once

#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "rewrite/collectives.h"
#include "rewrite/effects.h"
#include "rewrite/rowwise_rules.h"
#include "table/operators.h"

namespace spfast {

enum class Sharing : uint8_t {
  kUnknown,     // an input, or computed from one
  kReplicated,  // by proof: the same on every rank
  kOwn,         // by the graph's own evidence: one rank's
};

// What may be taken on trust.
struct Trust {
  bool unknown = true;             // values of which nothing is known
  std::vector<NodeId> replicated;  // inputs that somebody vouches for
};

// An all_reduce, a gather or a scatter of a value that all ranks share would be for nothing. So
// what one reaches is taken for a rank's own: through operators that treat rows alone, where the
// blame goes to the operands most likely to be partial, and through any deterministic operator
// whose other operands are shared. The largest of equal values, or their average, is no other: a
// quantisation is synchronised so, by a maximum over all tokens. Such a collective gives away
// through operators that treat rows alone and no others. What is computed from a rank's own value
// is its own as well. And so is a condition that selects what is reduced: it says which rows, or
// which part of a table, are the rank's own.
class Replication {
 public:
  // In place of a group's index: whatever the group.
  static constexpr uint32_t kEvery = kNone - 1;

  Replication(const NodeTable& table, const Effects& effects, const RowRules& rows,
              std::span<const CollectiveFamily> families, std::span<const GroupInfo> groups,
              Trust trust);

  [[nodiscard]] Sharing of(NodeId value, uint32_t group) const {
    if (is_proved(value, group)) return Sharing::kReplicated;
    const bool own = owner_[value] == group || owner_[value] == kEvery;
    return own ? Sharing::kOwn : Sharing::kUnknown;
  }
  // The group whose ranks are proved to share a value: kNone, an index, or kEvery.
  [[nodiscard]] uint32_t proved(NodeId value) const { return proved_[value]; }
  // Whether a value that is no shard may be read beside one. What was written to meanwhile is
  // another value than the one of its name: nobody can say of it that all ranks have it.
  [[nodiscard]] bool may_meet_shards(NodeId value, NodeId reader, uint32_t group) const {
    if (changed_before(value, reader) != kNone) return false;
    const Sharing sharing = of(value, group);
    return sharing == Sharing::kReplicated || (sharing == Sharing::kUnknown && trust_.unknown);
  }
  // What wrote to a value before it is read; kNone: nothing did.
  [[nodiscard]] NodeId changed_before(NodeId value, NodeId reader) const {
    return effects_.writer_before(value, reader);
  }
  // The collective that gives a rank's own value away.
  [[nodiscard]] NodeId evidence(NodeId value) const { return evidence_[value]; }
  // Nothing that is not proved meets a shard from now on.
  void trust_nothing() { trust_.unknown = false; }
  // The value turned out to be a rank's own, and so are the names of it; false: that was known.
  bool refute(NodeId value, uint32_t group, NodeId evidence);
  // What is computed from values that turned out to be a rank's own is so too.
  void spread();

  // A collective and the index of its group; kNone for all other nodes, and for a group that is not
  // among those that were asked for.
  struct Meeting {
    Collective kind = Collective::kNone;
    uint32_t group = kNone;
  };
  [[nodiscard]] Meeting meeting(NodeId node) const;
  // The groups that all ranks of a group are in: what each of these has for itself, or what they
  // all share, says as much of them.
  [[nodiscard]] std::span<const uint32_t> within(uint32_t group) const {
    return group < within_.size() ? std::span<const uint32_t>(within_[group])
                                  : std::span<const uint32_t>();
  }
  // Ranks that have the same operands have the same result.
  [[nodiscard]] bool is_deterministic(NodeId node) const;
  // Whether a collective makes something else of values that are the same on every rank.
  [[nodiscard]] bool changes_equals(NodeId collective) const {
    return equals_kept_.empty() || !equals_kept_.contains(collective);
  }
  // Whether every collective does.
  [[nodiscard]] bool all_change_equals() const { return equals_kept_.empty(); }
  [[nodiscard]] bool treats_rows_alone(NodeId node) const;
  // A view or a copy: its operand under another name.
  [[nodiscard]] bool is_name(NodeId node) const;

 private:
  [[nodiscard]] bool is_proved(NodeId value, uint32_t group) const {
    return proved_[value] == group || proved_[value] == kEvery;
  }
  [[nodiscard]] bool keeps_equals(NodeId collective) const;
  void prove();
  void blame();
  void rate();
  void give_away(NodeId value, uint32_t group, NodeId collective);
  void note_own(NodeId value, uint32_t group, NodeId collective);
  void blame_operands(NodeId node);
  void blame_conditions(NodeId node);
  // A rank's own for what it goes into, not for what selects by it.
  void accuse(NodeId value, uint32_t group, NodeId collective) {
    selects_[value] = false;
    give_away(value, group, collective);
  }
  [[nodiscard]] bool reads_conditions(NodeId node) const;
  void follow_own(NodeId node);
  // The group over which all of the node's operands are proved to be the same; kNone: there is
  // none.
  [[nodiscard]] uint32_t common_group(NodeId node) const;
  [[nodiscard]] bool reduces_tokens(NodeId node, const RowRule& rule) const;
  [[nodiscard]] Value group_of(NodeId node) const;
  [[nodiscard]] Value reduce_op_of(NodeId node) const;
  [[nodiscard]] const OperatorTraits& traits(NodeId node) const {
    return traits_.of(table_.target(node));
  }

  const NodeTable& table_;
  const Effects& effects_;
  const RowRules& rows_;
  std::span<const CollectiveFamily> families_;
  std::unordered_map<uint64_t, uint32_t> groups_;  // by value_key
  std::vector<std::vector<uint32_t>> within_;      // by group
  Trust trust_;
  mutable TraitsCache traits_;
  // By node: the group whose ranks all have it, and the group of which each rank has its own.
  std::vector<uint32_t> proved_;
  std::vector<uint32_t> owner_;
  std::vector<NodeId> evidence_;
  std::vector<uint8_t> suspicion_;
  std::vector<bool> conditions_;  // whether each of its elements says that something holds
  std::vector<bool> selects_;     // a rank's own for what selects by it: what it compares is not
  std::unordered_set<NodeId> equals_kept_;  // collectives that make nothing else of equal values
};

}  // namespace spfast
