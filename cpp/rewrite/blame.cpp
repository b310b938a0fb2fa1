// Backward, from each collective: which values it shows to be a rank's own.
#include <algorithm>
#include <string>

#include "base/work.h"
#include "rewrite/replication.h"
#include "table/targets.h"

namespace spfast {
namespace {

// How likely a value is one rank's part of a sum. Some operand of a sum has to be one. What all
// ranks share is not; an input may be; what was multiplied by weights most likely is.
enum Suspicion : uint8_t { kNotAtAll, kInput, kComputed };

constexpr std::string_view kCopy = "aten.copy_.default";

}  // namespace

// A condition stays one through operators on conditions and shared values: a negation, a cast, a
// view.
GroupMask Replication::conditions_read(NodeId node) const {
  GroupMask all = kAllGroups;
  GroupMask some = 0;
  for (const Argument value : table_.operands(node)) {
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
      for (uint32_t slot = 0; slot < topology_.slots(); ++slot) {
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
  // Nothing is proved of a buffer that is written to later, but it may have begun as what all ranks
  // share.
  const GroupMask born =
      effects_.any_writes() && is_deterministic(node) ? common_groups(node) : GroupMask{0};
  for (uint32_t slot = 0; slot < topology_.slots(); ++slot) {
    if (((proved_[node] | born) & slot_bit(slot)) != 0) continue;
    uint8_t& suspicion = suspicion_at(node, slot);
    if (!rows && !collective) {
      suspicion = kComputed;
      continue;
    }
    for (const Argument value : table_.operands(node)) {
      if (value.is_node()) suspicion = std::max(suspicion, suspicion_at(value.payload, slot));
    }
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
  StorageContents::Contents& contents = read_.of(storage);
  contents.own |= noted;
  each_slot(noted, [&](uint32_t slot) { contents.evidence[slot] = collective; });
}

void Replication::blame_written(NodeId node) {
  // What a called graph writes is blamed in that graph.
  if (effects_.is_known_call(node)) return;
  for (const NodeId storage : effects_.storages_written_by(node)) {
    const StorageContents::Contents* contents = read_.find(storage);
    if (contents == nullptr) continue;
    each_slot(contents->own, [&](uint32_t slot) {
      mark_own(node, slot_bit(slot), contents->evidence[slot]);
      // Another graph speaks of what is written to a buffer, not of what was there before.
      NodeId& known = evidence_at(node, slot);
      if (is_told(known)) known = contents->evidence[slot];
    });
  }
}

// Backward: what a collective would be for nothing on, were it the same on every rank.
void Replication::blame() {
  // Another graph reads it after all that is written here.
  for (const NodeId told : trust_.own) accuse_read(told, kAllGroups, table_.size() - 1);
  for (NodeId node = table_.size(); node-- > 0;) {
    SPFAST_WORK(1);
    if (table_.op(node) != Op::kCallFunction) continue;
    if (traits(node).collective != Collective::kNone) {
      blame_collective(node);
      continue;
    }
    if (!read_.empty()) blame_written(node);
    const bool told = is_told(node);
    each_slot(own_[node], [&](uint32_t slot) {
      if (evidence_at(node, slot) > node || told) blame_operands(node, slot);
    });
  }
}

// What a collective over one group yields differs in another group only if its operand does. The
// result says nothing else of the operand.
void Replication::blame_collective(NodeId node) {
  const auto [kind, group] = topology_.of(node);
  if (kind == Collective::kAllReduce || kind == Collective::kReduceScatter ||
      kind == Collective::kAllGather) {
    accuse_operands(node, topology_.bit(group), node);
  }
  each_slot(own_[node] & kept(node), [&](uint32_t slot) {
    const NodeId evidence = evidence_at(node, slot);
    if (evidence > node) accuse_operands(node, slot_bit(slot), evidence);
  });
}

void Replication::accuse_operands(NodeId node, GroupMask groups, NodeId collective) {
  for (const Argument value : table_.operands(node)) {
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
  if (!rows && !(is_deterministic(node) && topology_.changes_equals(evidence))) return;
  const NodeId gone = overwritten(node);
  uint8_t most = kNotAtAll;
  NodeId first = kNone;
  bool several = false;
  for (const Argument value : table_.operands(node)) {
    if (!value.is_node() || value.payload == gone) continue;
    if (suspicion_at(value.payload, slot) == kNotAtAll) continue;
    most = std::max(most, suspicion_at(value.payload, slot));
    several = several || (first != kNone && first != value.payload);
    first = value.payload;
  }
  if (!rows && several) return;
  for (const Argument value : table_.operands(node)) {
    if (value.is_node() && value.payload != gone && suspicion_at(value.payload, slot) == most) {
      accuse(value.payload, group, evidence);
    }
  }
  if (rows) blame_conditions(node, slot);
}

// What is selected is a rank's own, so the condition is blamed: the operand that is one, or a
// factor that is one. What the condition compares is not blamed, for one of the two may be the same
// on every rank.
void Replication::blame_conditions(NodeId node, uint32_t slot) {
  const GroupMask group = slot_bit(slot);
  const auto args = table_.args(node);
  const int8_t position = traits(node).selects_by;
  for (const Argument value : table_.operands(node)) {
    if (!value.is_node() || is_proved(value.payload, group)) continue;
    const bool named = position >= 0 && static_cast<size_t>(position) < args.size() &&
                       args[static_cast<size_t>(position)] == value;
    if (!named && (conditions_[value.payload] & group) == 0) continue;
    if ((own_[value.payload] & group) == 0) selects_[value.payload] |= group;
    accuse_read(value.payload, group, evidence_at(node, slot));
  }
}

}  // namespace spfast
