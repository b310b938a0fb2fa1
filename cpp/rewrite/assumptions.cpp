#include "rewrite/assumptions.h"

#include <algorithm>
#include <unordered_set>

#include "base/work.h"

namespace spfast {
namespace {

constexpr uint32_t kEvery = Replication::kEvery;

// The graph as it is if every value that meets a shard is the same on all ranks of the shard's
// group.
class Consequences {
 public:
  Consequences(const NodeTable& table, std::span<const Anchor> anchors, const Sites& sites,
               const Replication& replication)
      : table_(table),
        replication_(replication),
        // Only a collective that leaves equal values as they are asks for rows.
        follows_rows_(!replication.all_change_equals()) {
    for (const Site& site : sites.sites) {
      if (!site.reason.empty()) continue;
      if (shards_of_.empty()) shards_of_.assign(table.size(), kNone);
      const uint32_t group = sites.classes[site.token_class].group;
      if (site.scatters) shards_of_[anchors[site.anchor].reduced] = group;
      for (const NodeId node : site.interior) shards_of_[node] = group;
      for (const SiteOperand& operand : site.operands) {
        if (operand.kind == SiteOperand::Kind::kBuffer) {
          filled_.insert(pair_key(operand.user, operand.name));
        }
        if (follows_rows_ && operand.kind == SiteOperand::Kind::kRows) {
          cut_.insert(pair_key(operand.user, operand.name));
        }
      }
    }
    if (shards_of_.empty()) return;
    shared_.assign(table.size(), kNone);
    if (follows_rows_) has_rows_.assign(table.size(), false);
    for (NodeId node = 0; node < table.size(); ++node) follow(node);
  }

  [[nodiscard]] const std::vector<Assumption>& assumptions() const { return assumptions_; }

  // Refutes what the collectives contradict.
  bool refute(Replication& replication) {
    if (assumptions_.empty()) return false;
    bool any = false;
    for (NodeId node = 0; node < table_.size(); ++node) {
      const auto [kind, group] = replication.meeting(node);
      if (kind != Collective::kAllReduce && kind != Collective::kReduceScatter &&
          kind != Collective::kAllGather) {
        continue;
      }
      any = contradict(node, group, replication) || any;
      for (const uint32_t outer : replication.within(group)) {
        any = contradict(node, outer, replication) || any;
      }
    }
    if (any) replication.spread();
    return any;
  }

 private:
  // What the collective would do for nothing, if its operands were shared among all of a group.
  bool contradict(NodeId collective, uint32_t group, Replication& replication) {
    bool any = false;
    for (const Value value : table_.operands(collective)) {
      if (!value.is_node() || !is_shared(value.payload, group)) continue;
      if (replication.changes_equals(collective) || has_rows_[value.payload]) {
        any = blame(value.payload, group, collective, replication) || any;
      }
    }
    return any;
  }

  [[nodiscard]] bool is_proved(NodeId node, uint32_t group) const {
    return replication_.of(node, group) == Sharing::kReplicated;
  }
  [[nodiscard]] bool is_shared(NodeId node, uint32_t group) const {
    return shared_[node] == group || shared_[node] == kEvery || is_proved(node, group) ||
           assumed_.contains(pair_key(node, group));
  }

  // With a row for each token, by assumption or computed from such row by row.
  void follow_rows(NodeId node) {
    if (has_rows_[node] || !replication_.treats_rows_alone(node)) return;
    for (const Value value : table_.operands(node)) {
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
      if (!is_proved(node, group)) {
        for (const Value value : table_.operands(node)) {
          if (value.is_node()) meet(value.payload, node, group);
        }
      }
      shared_[node] = group;
    } else if (is_proved(node, kEvery)) {
      shared_[node] = kEvery;
    } else if (replication_.is_deterministic(node)) {
      const uint32_t wanted = group_of_operands(node);
      const auto operands = table_.operands(node);
      const bool all = std::all_of(operands.begin(), operands.end(), [&](Value value) {
        return !value.is_node() || is_shared(value.payload, wanted);
      });
      if (all) shared_[node] = wanted;
    }
  }

  // The only group whose ranks may share what the node yields.
  [[nodiscard]] uint32_t group_of_operands(NodeId node) const {
    uint32_t group = kEvery;
    for (const Value value : table_.operands(node)) {
      if (!value.is_node()) continue;
      const uint32_t one = shared_[value.payload] != kNone ? shared_[value.payload]
                                                           : replication_.proved(value.payload);
      if (one != kEvery) group = one;
      if (one == kNone) return kNone;
    }
    return group;
  }

  void meet(NodeId name, NodeId reader, uint32_t group) {
    if (is_shared(name, group) || filled_.contains(pair_key(reader, name))) return;
    // A view is as shared as what it is a view of.
    std::vector<NodeId> names{name};
    while (replication_.is_name(names.back())) {
      names.push_back(table_.args(names.back())[0].payload);
      if (is_shared(names.back(), group)) break;
    }
    const NodeId value = names.back();
    const bool known = is_shared(value, group);
    const bool cut = follows_rows_ && cut_.contains(pair_key(reader, name));
    for (const NodeId one : names) {
      if (cut && !known) has_rows_[one] = true;
      assumed_.insert(pair_key(one, group));
      if (shared_[one] == kNone) shared_[one] = group;
    }
    if (known) return;
    given_.insert(pair_key(value, group));
    assumptions_.push_back({value, reader, group});
  }

  // The assumptions that a value rests on.
  bool blame(NodeId value, uint32_t group, NodeId collective, Replication& replication) {
    bool any = false;
    std::vector<NodeId> pending{value};
    while (!pending.empty()) {
      const NodeId node = pending.back();
      pending.pop_back();
      SPFAST_WORK(1);
      if (is_proved(node, group) || !blamed_.insert(pair_key(node, group)).second) continue;
      if (given_.contains(pair_key(node, group))) {
        any = replication.refute(node, group, collective) || any;
        continue;
      }
      for (const Value operand : table_.operands(node)) {
        if (operand.is_node() && is_shared(operand.payload, group)) {
          pending.push_back(operand.payload);
        }
      }
    }
    return any;
  }

  const NodeTable& table_;
  const Replication& replication_;
  bool follows_rows_;
  std::vector<uint32_t> shards_of_;  // by node: the group among whose ranks its rows are shared out
  std::vector<uint32_t> shared_;     // by node: the group (the first, if many) that shares it
  std::vector<bool> has_rows_;       // by node: assumed row by row, or computed so from such
  std::unordered_set<uint64_t> assumed_;  // value and group: an assumption, or a name of one
  std::unordered_set<uint64_t> given_;    // value and group: an assumption
  std::unordered_set<uint64_t> filled_;   // reader and buffer: only written to
  std::unordered_set<uint64_t> cut_;      // reader and value: read row by row
  std::unordered_set<uint64_t> blamed_;
  std::vector<Assumption> assumptions_;
};

}  // namespace

Reason why_apart(const Replication& replication, NodeId value, NodeId reader, uint32_t group) {
  if (const NodeId writer = replication.changed_before(value, reader); writer != kNone) {
    return {Reason::Kind::kWritten, value, writer, 0, 0};
  }
  if (replication.of(value, group) == Sharing::kOwn) {
    return {Reason::Kind::kRankOwn, value, replication.evidence(value), 0, 0};
  }
  return {Reason::Kind::kNotProved, value, kNone, 0, 0};
}

std::vector<Assumption> find_assumptions(const NodeTable& table, std::span<const Anchor> anchors,
                                         const Sites& sites, const Replication& replication) {
  return Consequences(table, anchors, sites, replication).assumptions();
}

bool refute_assumptions(const NodeTable& table, std::span<const Anchor> anchors, const Sites& sites,
                        Replication& replication) {
  return Consequences(table, anchors, sites, replication).refute(replication);
}

}  // namespace spfast
