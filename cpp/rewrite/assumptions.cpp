#include "rewrite/assumptions.h"

#include <bit>
#include <unordered_map>
#include <unordered_set>

#include "base/work.h"

namespace spfast {
namespace {

// The graph as it is if every value that meets a shard is the same on all ranks of the shard's
// group.
class Consequences {
 public:
  Consequences(const NodeTable& table, std::span<const Anchor> anchors, const Sites& sites,
               const Replication& replication)
      : table_(table),
        replication_(replication),
        topology_(replication.topology()),
        effects_(replication.effects()),
        writes_(effects_.any_writes()),
        // Only a collective that leaves equal values as they are asks for rows.
        follows_rows_(!topology_.all_change_equals()) {
    for (const Site& site : sites.sites) {
      if (!site.reason.empty()) continue;
      if (shards_of_.empty()) shards_of_.assign(table.size(), kNone);
      const uint32_t group = sites.classes[site.token_class].group;
      if (site.scatters) shards_of_[anchors[site.anchor].reduced] = group;
      for (const NodeId node : site.interior) shards_of_[node] = group;
      for (const SiteOperand& operand : site.operands) {
        if (operand.kind == SiteOperand::Kind::kBuffer) {
          filled_.insert(pair_key(operand.user, operand.alias));
        }
        if (follows_rows_ && operand.kind == SiteOperand::Kind::kRows) {
          cut_.insert(pair_key(operand.user, operand.alias));
        }
      }
    }
    if (shards_of_.empty()) return;
    shared_.assign(table.size(), 0);
    if (follows_rows_) has_rows_.assign(table.size(), false);
    for (NodeId node = 0; node < table.size(); ++node) follow(node);
  }

  [[nodiscard]] const std::vector<Assumption>& assumptions() const { return assumptions_; }

  // Refutes what the collectives contradict.
  bool refute(Replication& replication) {
    if (assumptions_.empty()) return false;
    bool any = false;
    contents_.clear();
    for (NodeId node = 0; node < table_.size(); ++node) {
      // What was computed of an assumed value before the shard that reads it.
      if (shards_of_[node] == kNone && (writes_ || shared_[node] != kAllGroups)) share(node);
      if (follows_rows_) follow_rows(node);
      const auto [kind, group] = topology_.of(node);
      if (kind == Collective::kAllReduce || kind == Collective::kReduceScatter ||
          kind == Collective::kAllGather) {
        any = contradict(node, group, replication) || any;
      }
    }
    if (any) replication.spread();
    return any;
  }

 private:
  // What the collective would do for nothing, if its operands were shared among all of its group.
  bool contradict(NodeId collective, uint32_t group, Replication& replication) {
    bool any = false;
    for (const Argument value : table_.operands(collective)) {
      if (!value.is_node()) continue;
      GroupMask shared = shared_[value.payload] & topology_.outer(group);
      if (!topology_.changes_equals(collective) && !has_rows_[value.payload]) continue;
      for (; shared != 0; shared &= shared - 1) {
        any = blame(value.payload, shared & -shared, collective, replication) || any;
      }
    }
    return any;
  }

  [[nodiscard]] bool is_proved(NodeId node, GroupMask group) const {
    return (replication_.proved(node) & group) != 0;
  }

  // Whether a value has a row for each token: by assumption, or computed row by row from one that
  // has.
  void follow_rows(NodeId node) {
    const bool across = topology_.of(node).kind != Collective::kNone;
    if (has_rows_[node] || !(across || replication_.treats_rows_alone(node))) return;
    for (const Argument value : table_.operands(node)) {
      if (value.is_node() && has_rows_[value.payload]) has_rows_[node] = true;
    }
  }

  void follow(NodeId node) {
    SPFAST_WORK(1);
    follow_sharing(node);
    if (follows_rows_) follow_rows(node);
  }

  void follow_sharing(NodeId node) {
    if (const uint32_t group = shards_of_[node]; group != kNone) {
      if (!is_proved(node, topology_.bit(group))) {
        for (const Argument value : table_.operands(node)) {
          if (value.is_node()) meet(value.payload, node, group);
        }
      }
      shared_[node] |= topology_.bit(group);
    }
    shared_[node] |= replication_.proved(node);
    share(node);
  }

  // What all operands share, the result does where the ranks compute it alike.
  void share(NodeId node) {
    if (writes_) return share_contents(node);
    GroupMask common = ~shared_[node];
    for (const Argument value : table_.operands(node)) {
      if (value.is_node()) common &= shared_[value.payload];
    }
    if (common != 0) shared_[node] |= common & replication_.kept(node);
  }

  // The same, where an operand may have been overwritten in its memory.
  void share_contents(NodeId node) {
    GroupMask common = ~shared_[node];
    for (const Argument value : table_.operands(node)) {
      if (value.is_node()) common &= shared_[value.payload] & contents(value.payload);
    }
    if (common != 0) shared_[node] |= common & replication_.kept(node);
    for (const NodeId storage : effects_.storages_written_by(node)) {
      contents_.try_emplace(storage, kAllGroups).first->second &= shared_[node];
    }
  }

  // The groups that share all that was written to a value's memory so far.
  [[nodiscard]] GroupMask contents(NodeId value) const {
    const auto found = contents_.find(effects_.written_storage(value));
    return found == contents_.end() ? kAllGroups : found->second;
  }

  void meet(NodeId alias, NodeId reader, uint32_t group) {
    const GroupMask one = topology_.bit(group);
    if ((shared_[alias] & one) != 0 || filled_.contains(pair_key(reader, alias))) return;
    // A view is as shared as what it is a view of.
    std::vector<NodeId> aliases{alias};
    while (replication_.is_alias(aliases.back())) {
      aliases.push_back(table_.args(aliases.back())[0].payload);
      if ((shared_[aliases.back()] & one) != 0) break;
    }
    const NodeId value = aliases.back();
    const bool known = (shared_[value] & one) != 0;
    const bool cut = follows_rows_ && cut_.contains(pair_key(reader, alias));
    for (const NodeId each : aliases) {
      if (cut && !known) has_rows_[each] = true;
      shared_[each] |= one;
    }
    if (known) return;
    given_.insert(pair_key(value, group));
    assumptions_.push_back({value, reader, group});
  }

  // The assumptions that a value rests on.
  bool blame(NodeId value, GroupMask one, NodeId collective, Replication& replication) {
    const auto group = static_cast<uint32_t>(std::countr_zero(one));
    bool any = false;
    std::vector<NodeId> pending{value};
    while (!pending.empty()) {
      const NodeId node = pending.back();
      pending.pop_back();
      SPFAST_WORK(1);
      if (is_proved(node, one) || !blamed_.insert(pair_key(node, group)).second) continue;
      if (given_.contains(pair_key(node, group))) {
        any = replication.refute(node, group, collective) || any;
        continue;
      }
      for (const Argument operand : table_.operands(node)) {
        if (operand.is_node() && (shared_[operand.payload] & one) != 0) {
          pending.push_back(operand.payload);
        }
      }
    }
    return any;
  }

  const NodeTable& table_;
  const Replication& replication_;
  const GroupTopology& topology_;
  const Effects& effects_;
  bool writes_;
  bool follows_rows_;
  std::vector<uint32_t> shards_of_;  // by node: the group among whose ranks its rows are shared out
  std::vector<GroupMask> shared_;    // by node: the groups whose ranks share it, if all is true
  std::vector<bool> has_rows_;       // by node: assumed row by row, or computed so from such
  std::unordered_map<NodeId, GroupMask> contents_;  // by storage that was written to so far
  std::unordered_set<uint64_t> given_;              // value and group: an assumption
  std::unordered_set<uint64_t> filled_;             // reader and buffer: only written to
  std::unordered_set<uint64_t> cut_;                // reader and value: read row by row
  std::unordered_set<uint64_t> blamed_;
  std::vector<Assumption> assumptions_;
};

}  // namespace

std::vector<Assumption> find_assumptions(const NodeTable& table, std::span<const Anchor> anchors,
                                         const Sites& sites, const Replication& replication) {
  return Consequences(table, anchors, sites, replication).assumptions();
}

bool refute_assumptions(const NodeTable& table, std::span<const Anchor> anchors, const Sites& sites,
                        Replication& replication) {
  return Consequences(table, anchors, sites, replication).refute(replication);
}

}  // namespace spfast
