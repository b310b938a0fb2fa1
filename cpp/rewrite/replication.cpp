#include "rewrite/replication.h"

#include <algorithm>

#include "base/work.h"
#include "table/targets.h"

namespace spfast {
namespace {

// How likely a value is one rank's part of a sum, where some operand of a sum has to be: what all
// ranks share is not, an input may be, and most of all what weights went into.
enum Suspicion : uint8_t { kNotAtAll, kInput, kComputed };

}  // namespace

Replication::Replication(const NodeTable& table, const Effects& effects, const RowRules& rows,
                         std::span<const CollectiveFamily> families,
                         std::span<const GroupInfo> groups, Trust trust)
    : table_(table),
      effects_(effects),
      rows_(rows),
      families_(families),
      trust_(std::move(trust)),
      proved_(table.size(), kNone),
      owner_(table.size(), kNone),
      evidence_(table.size(), kNone) {
  for (uint32_t i = 0; i < groups.size(); ++i) {
    groups_.emplace(value_key(groups[i].group), i);
    within_.push_back(groups[i].within);
  }
  prove();
  rate();
  blame();
  spread();
  suspicion_.clear();
  conditions_.clear();
  selects_.clear();
}

Value Replication::group_of(NodeId node) const {
  const auto args = table_.args(node);
  const TargetId target = table_.target(node);
  const auto at = [&](size_t position) {
    return position < args.size() ? args[position] : Value{};
  };
  for (const CollectiveFamily& family : families_) {
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
  const auto pairs = table_.kwargs(node);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    const std::string& key = table_.string(pairs[i].payload);
    if (key == "group_name" || key == "group") return pairs[i + 1];
  }
  return args.empty() ? Value{} : args.back();
}

Replication::Meeting Replication::meeting(NodeId node) const {
  if (table_.op(node) != Op::kCallFunction) return {};
  const Collective kind = traits(node).collective;
  if (kind == Collective::kNone) return {};
  const auto group = groups_.find(value_key(group_of(node)));
  return group == groups_.end() ? Meeting{} : Meeting{kind, group->second};
}

// Absent where a collective has no reduce op: it is always a sum, or it reduces nothing.
Value Replication::reduce_op_of(NodeId node) const {
  const auto args = table_.args(node);
  const TargetId target = table_.target(node);
  const auto at = [&](int32_t position) {
    const bool there = position >= 0 && static_cast<size_t>(position) < args.size();
    return there ? args[static_cast<size_t>(position)] : table_.kwarg(node, "reduce_op");
  };
  for (const CollectiveFamily& family : families_) {
    if (family.match.all_reduce == target) {
      return family.match.reduce_op < 0 ? Value{} : at(family.match.reduce_op);
    }
    if (family.reduce_scatter == target) {
      const auto& slots = family.reduce_scatter_args;
      const auto slot = std::find_if(slots.begin(), slots.end(), [](const CollectiveArg& one) {
        return one.kind == CollectiveArg::Kind::kReduceOp;
      });
      return slot == slots.end() ? Value{} : at(static_cast<int32_t>(slot - slots.begin()));
    }
    if (family.all_gather == target) return {};
  }
  // By torch's convention it follows the operand; the group comes last.
  return at(args.size() > 2 ? 1 : -1);
}

bool Replication::keeps_equals(NodeId collective) const {
  const Value op = reduce_op_of(collective);
  if (op.tag != Tag::kString) return false;
  const std::string& name = table_.string(op.payload);
  return name == "max" || name == "min" || name == "avg";
}

bool Replication::is_deterministic(NodeId node) const {
  if (table_.op(node) != Op::kCallFunction) return false;
  const OperatorTraits& known = traits(node);
  if (known.collective != Collective::kNone) return false;
  if (known.dropout >= 0) {
    const auto args = table_.args(node);
    const auto position = static_cast<size_t>(known.dropout);
    if (position >= args.size()) return table_.kwargs(node).empty();
    const Value p = args[position];
    return (p.tag == Tag::kFloat && table_.as_float(p) == 0) ||
           (p.tag == Tag::kInt && table_.as_int(p) == 0);
  }
  return known.deterministic || rows_.find(table_.target(node)) != nullptr;
}

bool Replication::is_name(NodeId node) const {
  constexpr uint8_t kNames = target_flag::kView | target_flag::kIdentity;
  return table_.op(node) == Op::kCallFunction && (table_.flags(node) & kNames) != 0 &&
         !table_.args(node).empty() && table_.args(node)[0].is_node();
}

// A reduction without dims, or over the first, is one over all tokens.
bool Replication::reduces_tokens(NodeId node, const RowRule& rule) const {
  if (rule.family != RowRule::Family::kReduce) return false;
  const auto args = table_.args(node);
  const auto position = static_cast<size_t>(rule.position);
  if (position >= args.size()) return table_.kwargs(node).empty();
  const auto is_first = [this](Value dim) {
    return dim.tag == Tag::kInt && table_.as_int(dim) == 0;
  };
  if (!is_sequence(args[position].tag)) return is_first(args[position]);
  const auto items = table_.items(args[position]);
  return items.empty() || std::any_of(items.begin(), items.end(), is_first);
}

bool Replication::treats_rows_alone(NodeId node) const {
  const RowRule* rule = rows_.find(table_.target(node));
  return (rule != nullptr && !reduces_tokens(node, *rule)) || is_name(node) ||
         table_.whole_of(node) != kNone;
}

uint32_t Replication::common_group(NodeId node) const {
  uint32_t common = kEvery;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node()) continue;
    const uint32_t group = proved_[value.payload];
    if (group == kEvery || group == common) continue;
    if (group == kNone || common != kEvery) return kNone;
    common = group;
  }
  return common;
}

// Forward: what follows from the collectives over a group, from constants and from sizes.
void Replication::prove() {
  std::vector<bool> ragged(table_.size(), false);  // of a size that only its own rank knows
  for (const NodeId node : trust_.replicated) proved_[node] = kEvery;
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (table_.op(node) != Op::kCallFunction) {
      if (table_.meta(node).kind == MetaKind::kSym) proved_[node] = kEvery;
      continue;
    }
    const OperatorTraits& known = traits(node);
    if (known.collective != Collective::kNone) {
      if (keeps_equals(node)) equals_kept_.insert(node);
      const auto [kind, group] = meeting(node);
      if (kind == Collective::kAllReduce || kind == Collective::kAllGather) {
        if (effects_.writer_before(node, table_.size()) == kNone) proved_[node] = group;
      } else if (kind == Collective::kReduceScatter || kind == Collective::kAllToAll) {
        give_away(node, group, node);
      }
      continue;
    }
    if (known.rank) {
      give_away(node, kEvery, node);
      continue;
    }
    if (is_deterministic(node)) {
      proved_[node] = effects_.writer_of(node) == kNone ? common_group(node) : kNone;
      if (proved_[node] != kNone) continue;
    }
    ragged[node] = known.data_sized;
    for (const Value value : table_.operands(node)) {
      if (value.is_node() && ragged[value.payload]) ragged[node] = true;
    }
    if (known.sizes && !ragged[node]) proved_[node] = kEvery;
    follow_own(node);
  }
}

// What a node computes from a rank's own value.
void Replication::follow_own(NodeId node) {
  const OperatorTraits& known = traits(node);
  if (known.collective != Collective::kNone || known.sizes) return;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node() || owner_[value.payload] == kNone) continue;
    give_away(node, owner_[value.payload], evidence_[value.payload]);
  }
}

// Made of comparisons, and of what all ranks share: their negation, a cast, a view.
bool Replication::reads_conditions(NodeId node) const {
  bool some = false;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node() || proved_[value.payload] != kNone) continue;
    if (!conditions_[value.payload]) return false;
    some = true;
  }
  return some;
}

// How likely each value is one rank's part of a sum, and which are conditions.
void Replication::rate() {
  suspicion_.assign(table_.size(), kNotAtAll);
  conditions_.assign(table_.size(), false);
  selects_.assign(table_.size(), false);
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (proved_[node] != kNone) continue;
    if (table_.op(node) != Op::kCallFunction) {
      suspicion_[node] = kInput;
      continue;
    }
    const bool rows = treats_rows_alone(node);
    conditions_[node] = traits(node).condition || (rows && reads_conditions(node));
    if (!rows) {
      suspicion_[node] = kComputed;
    } else {
      for (const Value value : table_.operands(node)) {
        if (!value.is_node()) continue;
        suspicion_[node] = std::max(suspicion_[node], suspicion_[value.payload]);
      }
    }
  }
}

void Replication::give_away(NodeId value, uint32_t group, NodeId collective) {
  note_own(value, group, collective);
  for (const uint32_t outer : within(group)) note_own(value, outer, collective);
}

void Replication::note_own(NodeId value, uint32_t group, NodeId collective) {
  if (is_proved(value, group)) return;
  if (owner_[value] == group || owner_[value] == kEvery) {
    // Of two that give it away, the one that gives away more.
    if (evidence_[value] > value && !changes_equals(evidence_[value]) &&
        changes_equals(collective)) {
      evidence_[value] = collective;
    }
    return;
  }
  owner_[value] = owner_[value] == kNone ? group : kEvery;
  if (evidence_[value] == kNone) evidence_[value] = collective;
}

// Backward: what a collective would be for nothing on, were it the same on every rank.
void Replication::blame() {
  for (NodeId node = table_.size(); node-- > 0;) {
    SPFAST_WORK(1);
    if (table_.op(node) != Op::kCallFunction) continue;
    const auto [kind, group] = meeting(node);
    if (kind == Collective::kAllReduce || kind == Collective::kReduceScatter ||
        kind == Collective::kAllGather) {
      for (const Value value : table_.operands(node)) {
        if (value.is_node()) accuse(value.payload, group, node);
      }
    } else if (owner_[node] != kNone && evidence_[node] > node) {
      // What comes out of a collective says nothing of what went in.
      blame_operands(node);
    }
  }
}

void Replication::blame_operands(NodeId node) {
  if (selects_[node]) {
    blame_conditions(node);
    return;
  }
  const uint32_t group = owner_[node];
  const bool rows = treats_rows_alone(node);
  if (!rows && !(is_deterministic(node) && changes_equals(evidence_[node]))) return;
  uint8_t most = kNotAtAll;
  NodeId first = kNone;
  bool several = false;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node() || is_proved(value.payload, group)) continue;
    most = std::max(most, suspicion_[value.payload]);
    several = several || (first != kNone && first != value.payload);
    first = value.payload;
  }
  if (!rows && several) return;
  for (const Value value : table_.operands(node)) {
    if (value.is_node() && suspicion_[value.payload] == most) {
      accuse(value.payload, group, evidence_[node]);
    }
  }
  if (rows) blame_conditions(node);
}

// What is selected is one rank's, so the condition is too: by an operand that says so, or as a
// factor. What it compares is not, for one of the two may be the same on every rank.
void Replication::blame_conditions(NodeId node) {
  const auto args = table_.args(node);
  const int8_t position = traits(node).selects_by;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node() || is_proved(value.payload, owner_[node])) continue;
    const bool named = position >= 0 && static_cast<size_t>(position) < args.size() &&
                       args[static_cast<size_t>(position)] == value;
    if (!named && !conditions_[value.payload]) continue;
    if (owner_[value.payload] == kNone) selects_[value.payload] = true;
    give_away(value.payload, owner_[node], evidence_[node]);
  }
}

// Forward once more: whoever reads what a collective gave away.
void Replication::spread() {
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (table_.op(node) == Op::kCallFunction) follow_own(node);
  }
}

bool Replication::refute(NodeId value, uint32_t group, NodeId evidence) {
  if (of(value, group) == Sharing::kOwn) return false;
  std::vector<NodeId> names{value};
  while (!names.empty()) {
    const NodeId name = names.back();
    names.pop_back();
    if (of(name, group) == Sharing::kOwn) continue;
    give_away(name, group, evidence);
    for (const NodeId user : table_.users(name)) {
      if (is_name(user) && table_.args(user)[0].payload == name) names.push_back(user);
    }
  }
  return true;
}

}  // namespace spfast
