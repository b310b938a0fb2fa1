#include "rewrite/replication.h"

#include <algorithm>
#include <bit>

#include "base/work.h"
#include "table/targets.h"

namespace spfast {
namespace {

// How likely a value is one rank's part of a sum, where some operand of a sum has to be: what all
// ranks share is not, an input may be, and most of all what weights went into.
enum Suspicion : uint8_t { kNotAtAll, kInput, kComputed };

// The places of the bits of a mask.
template <typename Visit>
void each_slot(GroupMask groups, Visit visit) {
  for (; groups != 0; groups &= groups - 1) {
    visit(static_cast<uint32_t>(std::countr_zero(groups)));
  }
}

constexpr std::string_view kCopy = "aten.copy_.default";

GroupMask slot_bit(uint32_t slot) { return GroupMask{1} << slot; }

}  // namespace

Replication::Replication(const NodeTable& table, const Effects& effects, const RowRules& rows,
                         std::span<const CollectiveFamily> families,
                         std::span<const GroupInfo> groups, Trust trust)
    : table_(table),
      effects_(effects),
      rows_(rows),
      meetings_(table, families, groups),
      trust_(std::move(trust)),
      proved_(table.size(), 0),
      own_(table.size(), 0),
      scattered_(table.size(), 0),
      evidence_(size_t{table.size()} * meetings_.slots(), kNone),
      written_(meetings_.slots()),
      read_(meetings_.slots()) {
  prove();
  rate();
  blame();
  spread();
  suspicion_.clear();
  conditions_.clear();
  selects_.clear();
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

GroupMask Replication::common_groups(NodeId node) const {
  GroupMask common = kAllGroups;
  for (const Value value : table_.operands(node)) {
    if (value.is_node()) common &= proved_[value.payload];
  }
  return common;
}

GroupMask Replication::kept(NodeId node) const {
  const auto [kind, group] = meetings_.of(node);
  if (kind == Collective::kNone) return is_deterministic(node) ? kAllGroups : 0;
  if (kind == Collective::kAllReduce || kind == Collective::kAllGather) return kAllGroups;
  return meetings_.crossed(group);
}

// Forward: what follows from the collectives over a group, from constants and from sizes.
void Replication::prove() {
  // The groups in which only its own rank knows the size of a value.
  std::vector<GroupMask> ragged(table_.size(), 0);
  for (const NodeId node : trust_.replicated) proved_[node] = kAllGroups;
  for (const NodeId node : trust_.own) give_away(node, kAllGroups, node);
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (table_.op(node) != Op::kCallFunction) {
      if (table_.meta(node).kind == MetaKind::kSym) proved_[node] = kAllGroups;
      continue;
    }
    const OperatorTraits& known = traits(node);
    if (known.collective != Collective::kNone) {
      prove_after(node);
      continue;
    }
    if (known.rank) {
      give_away(node, kAllGroups, node);
      continue;
    }
    if (is_deterministic(node)) {
      proved_[node] = effects_.writer_of(node) == kNone ? common_groups(node) : 0;
      if (proved_[node] == kAllGroups) continue;
    }
    if (known.data_sized) ragged[node] = kAllGroups;
    for (const Value value : table_.operands(node)) {
      if (value.is_node()) ragged[node] |= ragged[value.payload];
    }
    ragged[node] &= ~proved_[node];
    if (known.sizes) proved_[node] |= ~ragged[node];
    follow_own(node);
  }
}

void Replication::prove_after(NodeId collective) {
  const auto [kind, group] = meetings_.of(collective);
  if (kind == Collective::kAllReduce || kind == Collective::kAllGather) {
    if (effects_.writer_before(collective, table_.size()) == kNone) {
      proved_[collective] = meetings_.shared_after(group);
    }
  } else if (kind == Collective::kReduceScatter || kind == Collective::kAllToAll) {
    // A group that has no place among the others may be any.
    if (group == kNone) give_away(collective, kAllGroups, collective);
    scattered_[collective] |= note(collective, meetings_.bit(group), collective);
  }
  follow_own(collective);
}

// What a node computes from a rank's own value. A collective over one group leaves it a rank's own
// in others.
void Replication::follow_own(NodeId node) {
  const OperatorTraits& known = traits(node);
  if (known.sizes) return;
  GroupMask ended = 0;
  if (known.collective != Collective::kNone) ended = meetings_.bit(meetings_.of(node).group);
  for (const Value value : table_.operands(node)) {
    if (!value.is_node()) continue;
    const GroupMask scattered = scattered_[value.payload] & ~ended;
    const GroupMask own = own_[value.payload] & ~ended;
    each_slot(own | scattered, [&](uint32_t slot) {
      const GroupMask noted = note(node, slot_bit(slot), evidence_at(value.payload, slot));
      own_[node] |= noted & own;
      scattered_[node] |= noted & scattered;
    });
    if (!written_.empty()) follow_contents(node, effects_.written_storage(value.payload), ended);
  }
  keep_written(node);
}

void Replication::follow_contents(NodeId node, NodeId storage, GroupMask ended) {
  const Stored::Contents* contents = written_.find(storage);
  if (contents == nullptr) return;
  const GroupMask scattered = contents->scattered & ~ended;
  const GroupMask own = contents->own & ~ended;
  each_slot(own | scattered, [&](uint32_t slot) {
    const GroupMask noted = note(node, slot_bit(slot), contents->evidence[slot]);
    own_[node] |= noted & own;
    scattered_[node] |= noted & scattered;
  });
}

void Replication::keep_written(NodeId node) {
  if (!effects_.any_writes() || (own_[node] | scattered_[node]) == 0) return;
  for (const NodeId storage : effects_.storages_written_by(node)) {
    Stored::Contents& contents = written_.of(storage);
    contents.own |= own_[node];
    contents.scattered |= scattered_[node];
    each_slot(own_[node] | scattered_[node], [&](uint32_t slot) {
      if (contents.evidence[slot] == kNone) contents.evidence[slot] = evidence_at(node, slot);
    });
  }
}

// An operator in place does what the one that it is named after does; a copy has each row alone.
bool Replication::writes_rows_alone(NodeId node) const {
  if ((table_.flags(node) & target_flag::kMutates) == 0) return false;
  std::string name = target_name(table_.target(node));
  if (name == kCopy) return true;
  const size_t end = name.find("_.");
  if (end == std::string::npos) return false;
  const RowRule* rule = rows_.find(intern_target(name.erase(end, 1)));
  return rule != nullptr && !reduces_tokens(node, *rule);
}

NodeId Replication::overwritten(NodeId node) const {
  if ((table_.flags(node) & target_flag::kMutates) == 0) return kNone;
  const auto args = table_.args(node);
  const bool copies =
      !args.empty() && args[0].is_node() && target_name(table_.target(node)) == kCopy;
  return copies ? args[0].payload : kNone;
}

void Replication::accuse_read(NodeId value, GroupMask groups, NodeId collective) {
  const GroupMask noted = note(value, groups, collective);
  own_[value] |= noted;
  const NodeId storage = effects_.written_storage(value);
  if (storage == kNone) return;
  Stored::Contents& contents = read_.of(storage);
  contents.own |= noted;
  each_slot(noted, [&](uint32_t slot) { contents.evidence[slot] = collective; });
}

void Replication::blame_written(NodeId node) {
  for (const NodeId storage : effects_.storages_written_by(node)) {
    const Stored::Contents* contents = read_.find(storage);
    if (contents == nullptr) continue;
    each_slot(contents->own,
              [&](uint32_t slot) { give_away(node, slot_bit(slot), contents->evidence[slot]); });
  }
}

// Where it is made of comparisons and of what all ranks share: their negation, a cast, a view.
GroupMask Replication::conditions_read(NodeId node) const {
  GroupMask all = kAllGroups;
  GroupMask some = 0;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node()) continue;
    all &= proved_[value.payload] | conditions_[value.payload];
    some |= conditions_[value.payload] & ~proved_[value.payload];
  }
  return all & some;
}

// How likely each value is one rank's part of a sum, and which are conditions.
void Replication::rate() {
  suspicion_.assign(evidence_.size(), kNotAtAll);
  conditions_.assign(table_.size(), 0);
  selects_.assign(table_.size(), 0);
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (proved_[node] == kAllGroups) continue;
    if (table_.op(node) == Op::kCallFunction) {
      rate_call(node);
    } else {
      for (uint32_t slot = 0; slot < meetings_.slots(); ++slot) {
        suspicion_at(node, slot) = kInput;
      }
    }
  }
}

void Replication::rate_call(NodeId node) {
  const bool collective = traits(node).collective != Collective::kNone;
  const bool rows = treats_rows_alone(node);
  conditions_[node] = traits(node).condition ? kAllGroups : rows ? conditions_read(node) : 0;
  conditions_[node] &= ~proved_[node];
  // What is written to later is not proved by its name, but it began as what all ranks share.
  const GroupMask born =
      effects_.any_writes() && is_deterministic(node) ? common_groups(node) : GroupMask{0};
  for (uint32_t slot = 0; slot < meetings_.slots(); ++slot) {
    if (((proved_[node] | born) & slot_bit(slot)) != 0) continue;
    uint8_t& suspicion = suspicion_at(node, slot);
    if (!rows && !collective) {
      suspicion = kComputed;
      continue;
    }
    for (const Value value : table_.operands(node)) {
      if (value.is_node()) suspicion = std::max(suspicion, suspicion_at(value.payload, slot));
    }
  }
}

// Notes what gives a value away; returns the groups of which that is no contradiction.
GroupMask Replication::note(NodeId value, GroupMask groups, NodeId collective) {
  groups &= ~proved_[value];
  if (meetings_.slots() < 64) groups &= slot_bit(meetings_.slots()) - 1;
  each_slot(groups, [&](uint32_t slot) {
    NodeId& known = evidence_at(value, slot);
    if (known == kNone) {
      known = collective;
    } else if (known > value && !meetings_.changes_equals(known) &&
               meetings_.changes_equals(collective)) {
      known = collective;  // of two, the one that gives away more
    }
  });
  return groups;
}

NodeId Replication::evidence(NodeId value, uint32_t group) const {
  GroupMask groups = apart(value, group);
  if ((groups & meetings_.bit(group)) != 0) groups = meetings_.bit(group);
  if (groups == 0) return kNone;
  const auto slot = static_cast<size_t>(std::countr_zero(groups));
  return evidence_[size_t{value} * meetings_.slots() + slot];
}

bool Replication::is_given_away(NodeId value) const {
  bool later = false;
  each_slot(own_[value], [&](uint32_t slot) {
    const NodeId shows = evidence_[size_t{value} * meetings_.slots() + slot];
    later = later || (shows > value && shows != kNone);
  });
  return later;
}

// Backward: what a collective would be for nothing on, were it the same on every rank.
void Replication::blame() {
  for (NodeId node = table_.size(); node-- > 0;) {
    SPFAST_WORK(1);
    if (table_.op(node) != Op::kCallFunction) continue;
    if (traits(node).collective != Collective::kNone) {
      blame_collective(node);
      continue;
    }
    if (!read_.empty()) blame_written(node);
    const bool told = std::binary_search(trust_.own.begin(), trust_.own.end(), node);
    each_slot(own_[node], [&](uint32_t slot) {
      if (evidence_at(node, slot) > node || told) blame_operands(node, slot);
    });
  }
}

// What a collective over one group yields differs in another only if its operand does. What comes
// out of one says nothing else of what went in.
void Replication::blame_collective(NodeId node) {
  const auto [kind, group] = meetings_.of(node);
  if (kind == Collective::kAllReduce || kind == Collective::kReduceScatter ||
      kind == Collective::kAllGather) {
    accuse_operands(node, meetings_.bit(group), node);
  }
  each_slot(own_[node] & kept(node), [&](uint32_t slot) {
    const NodeId evidence = evidence_at(node, slot);
    if (evidence > node) accuse_operands(node, slot_bit(slot), evidence);
  });
}

void Replication::accuse_operands(NodeId node, GroupMask groups, NodeId collective) {
  for (const Value value : table_.operands(node)) {
    if (value.is_node()) accuse(value.payload, groups, collective);
  }
}

void Replication::blame_operands(NodeId node, uint32_t slot) {
  const GroupMask group = slot_bit(slot);
  if ((selects_[node] & group) != 0) {
    blame_conditions(node, slot);
    return;
  }
  const NodeId evidence = evidence_at(node, slot);
  const bool rows = treats_rows_alone(node) || writes_rows_alone(node);
  if (!rows && !(is_deterministic(node) && meetings_.changes_equals(evidence))) return;
  const NodeId gone = overwritten(node);
  uint8_t most = kNotAtAll;
  NodeId first = kNone;
  bool several = false;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node() || value.payload == gone) continue;
    if (suspicion_at(value.payload, slot) == kNotAtAll) continue;
    most = std::max(most, suspicion_at(value.payload, slot));
    several = several || (first != kNone && first != value.payload);
    first = value.payload;
  }
  if (!rows && several) return;
  for (const Value value : table_.operands(node)) {
    if (value.is_node() && value.payload != gone && suspicion_at(value.payload, slot) == most) {
      accuse(value.payload, group, evidence);
    }
  }
  if (rows) blame_conditions(node, slot);
}

// What is selected is one rank's, so the condition is too: by an operand that says so, or as a
// factor. What it compares is not, for one of the two may be the same on every rank.
void Replication::blame_conditions(NodeId node, uint32_t slot) {
  const GroupMask group = slot_bit(slot);
  const auto args = table_.args(node);
  const int8_t position = traits(node).selects_by;
  for (const Value value : table_.operands(node)) {
    if (!value.is_node() || is_proved(value.payload, group)) continue;
    const bool named = position >= 0 && static_cast<size_t>(position) < args.size() &&
                       args[static_cast<size_t>(position)] == value;
    if (!named && (conditions_[value.payload] & group) == 0) continue;
    if ((own_[value.payload] & group) == 0) selects_[value.payload] |= group;
    accuse_read(value.payload, group, evidence_at(node, slot));
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
    give_away(name, meetings_.bit(group), evidence);
    for (const NodeId user : table_.users(name)) {
      if (is_name(user) && table_.args(user)[0].payload == name) names.push_back(user);
    }
  }
  return true;
}

}  // namespace spfast
