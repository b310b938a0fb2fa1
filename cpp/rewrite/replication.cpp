#include "rewrite/replication.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <string_view>

#include "base/work.h"
#include "table/targets.h"

namespace spfast {

Replication::Replication(const NodeTable& table, const Effects& effects, const RowRules& rows,
                         std::span<const CollectiveFamily> families,
                         std::span<const GroupInfo> groups, Trust trust)
    : table_(table),
      effects_(effects),
      rows_(rows),
      topology_(table, families, groups),
      trust_(std::move(trust)),
      proved_(table.size(), 0),
      own_(table.size(), 0),
      scattered_(table.size(), 0),
      evidence_(size_t{table.size()} * topology_.slots(), kNone),
      written_(topology_.slots()),
      read_(topology_.slots()) {
  prove();
  find_products();
  doubt_constants();
  doubt_parts();
  if (!doubted_.empty()) prove_again();
  doubt_sums();
  rate();
  blame();
  spread();
  carry_over();
  suspicion_.clear();
  conditions_.clear();
  selects_.clear();
  factors_.clear();
  constants_.clear();
}

void Replication::prove_again() {
  proved_.assign(table_.size(), 0);
  own_.assign(table_.size(), 0);
  scattered_.assign(table_.size(), 0);
  evidence_.assign(evidence_.size(), kNone);
  written_ = StorageContents(topology_.slots());
  prove();
}

bool Replication::is_deterministic(NodeId node) const {
  if (table_.op(node) != Op::kCallFunction) return false;
  const OperatorTraits& known = traits(node);
  if (known.collective != Collective::kNone) return false;
  if (known.dropout >= 0) {
    const auto args = table_.args(node);
    const auto position = static_cast<size_t>(known.dropout);
    if (position >= args.size()) return table_.kwargs(node).empty();
    const Argument p = args[position];
    return (p.tag == Tag::kFloat && table_.as_float(p) == 0) ||
           (p.tag == Tag::kInt && table_.as_int(p) == 0);
  }
  return known.deterministic || rows_.find(table_.target(node)) != nullptr;
}

bool Replication::is_alias(NodeId node) const {
  constexpr uint8_t kAlias = target_flag::kView | target_flag::kIdentity;
  return table_.op(node) == Op::kCallFunction && (table_.flags(node) & kAlias) != 0 &&
         !table_.args(node).empty() && table_.args(node)[0].is_node();
}

// A reduction without dims, or over the first, is one over all tokens.
bool Replication::reduces_tokens(NodeId node, const RowRule& rule) const {
  if (rule.family != RowRule::Family::kReduce) return false;
  const auto args = table_.args(node);
  const auto position = static_cast<size_t>(rule.position);
  if (position >= args.size()) return table_.kwargs(node).empty();
  const auto is_first = [this](Argument dim) {
    return dim.tag == Tag::kInt && table_.as_int(dim) == 0;
  };
  if (!is_sequence(args[position].tag)) return is_first(args[position]);
  const auto items = table_.items(args[position]);
  return items.empty() || std::any_of(items.begin(), items.end(), is_first);
}

bool Replication::treats_rows_alone(NodeId node) const {
  const RowRule* rule = rows_.find(table_.target(node));
  return (rule != nullptr && !reduces_tokens(node, *rule)) || is_alias(node) ||
         table_.whole_of(node) != kNone;
}

GroupMask Replication::common_groups(NodeId node) const {
  GroupMask common = kAllGroups;
  for (const Argument value : table_.operands(node)) {
    if (!value.is_node()) continue;
    common &= proved_[value.payload];
    if (written_.empty() || common == 0) continue;
    // Of an input that somebody vouches for, that is said of what it was when it came.
    const StorageContents::Contents* contents =
        written_.find(effects_.written_storage(value.payload));
    if (contents != nullptr) common &= ~contents->unproved;
  }
  return common;
}

GroupMask Replication::kept(NodeId node) const {
  const auto [kind, group] = topology_.of(node);
  if (kind == Collective::kNone) return is_deterministic(node) ? kAllGroups : 0;
  if (kind == Collective::kAllReduce || kind == Collective::kAllGather) return kAllGroups;
  return topology_.crossed(group);
}

// Forward: what follows from the collectives over a group, from constants and from sizes.
void Replication::prove() {
  // The groups among whose ranks the size of a value may differ.
  std::vector<GroupMask> ragged(table_.size(), 0);
  for (const NodeId node : trust_.replicated) proved_[node] = kAllGroups;
  for (const NodeId node : trust_.own) mark_own(node, kAllGroups, node);
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (table_.op(node) != Op::kCallFunction) {
      const auto& data = trust_.numbers;
      if (table_.meta(node).kind == MetaKind::kSym &&
          !std::binary_search(data.begin(), data.end(), node)) {
        proved_[node] = kAllGroups;
      }
      keep_written(node);
      continue;
    }
    const OperatorTraits& known = traits(node);
    if (known.collective != Collective::kNone) {
      prove_after(node);
      continue;
    }
    if (known.rank) {
      mark_own(node, kAllGroups, node);
      continue;
    }
    if (is_deterministic(node)) {
      proved_[node] = effects_.is_made_last(node) ? common_groups(node) : 0;
      for (uint32_t slot = 0; !doubted_.empty() && slot < topology_.slots(); ++slot) {
        const NodeId shows = doubted_[size_t{node} * topology_.slots() + slot];
        if (shows == kNone) continue;
        proved_[node] &= ~slot_bit(slot);
        mark_own(node, slot_bit(slot), shows);
      }
      if (proved_[node] == kAllGroups) continue;
    }
    if (known.data_sized || (known.sizes && is_data(node))) ragged[node] = kAllGroups;
    for (const Argument value : table_.operands(node)) {
      if (value.is_node()) ragged[node] |= ragged[value.payload];
    }
    ragged[node] &= ~proved_[node];
    if (known.sizes) proved_[node] |= ~ragged[node];
    follow_own(node);
  }
}

// A size, or what is computed of sizes.
bool Replication::is_number(NodeId node) const {
  if (table_.op(node) != Op::kCallFunction) return table_.meta(node).kind == MetaKind::kSym;
  return traits(node).number;
}

// torch calls such a number u0, u1 and so on.
bool Replication::is_data(NodeId size) const {
  const Meta& meta = table_.meta(size);
  if (meta.kind != MetaKind::kSym) return false;
  const Dim number = table_.dims(meta)[0];
  if (!number.is_expr()) return false;
  const std::string_view text = table_.expr(number.expr_id());
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  for (size_t at = 0; at + 1 < text.size(); ++at) {
    const bool begins = at == 0 || (!is_word(text[at - 1]) && text[at - 1] != '_');
    if (begins && text[at] == 'u' && is_digit(text[at + 1])) return true;
  }
  return false;
}

void Replication::prove_after(NodeId collective) {
  const auto [kind, group] = topology_.of(collective);
  if (kind == Collective::kAllReduce || kind == Collective::kAllGather) {
    if (effects_.writer_before(collective, table_.size()) == kNone) {
      proved_[collective] = topology_.shared_after(group);
    }
  } else if (kind == Collective::kReduceScatter || kind == Collective::kAllToAll) {
    // A group that is not among the known ones may be any of them.
    if (group == kNone) mark_own(collective, kAllGroups, collective);
    scattered_[collective] |= note(collective, topology_.bit(group), collective);
  }
  follow_own(collective);
}

// What a node computes from a rank's own value. A collective over one group leaves it a rank's own
// in others.
void Replication::follow_own(NodeId node) {
  const OperatorTraits& known = traits(node);
  if (known.sizes) return;
  GroupMask ended = 0;
  if (known.collective != Collective::kNone) ended = topology_.bit(topology_.of(node).group);
  for (const Argument value : table_.operands(node)) {
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
  const StorageContents::Contents* contents = written_.find(storage);
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
  if (!effects_.any_writes()) return;
  GroupMask own = own_[node];
  const bool told = std::binary_search(trust_.writers.begin(), trust_.writers.end(), node);
  if (told) own = topology_.all();
  const std::vector<NodeId> storages = effects_.storages_written_by(node);
  if (storages.empty()) return;
  // Of a called module nothing is known: it may write, but that does not show that it does.
  const bool is_known = table_.op(node) != Op::kCallModule || effects_.is_known_call(node);
  // What an all_reduce in place leaves is what it yields.
  const GroupMask shared = is_deterministic(node) ? common_groups(node) : proved_[node];
  const GroupMask unproved = is_known ? ~shared : GroupMask{0};
  if ((own | scattered_[node] | unproved) == 0) return;
  for (const NodeId storage : storages) {
    StorageContents::Contents& contents = written_.of(storage);
    contents.own |= own;
    contents.scattered |= scattered_[node];
    contents.unproved |= unproved;
    each_slot(own | scattered_[node], [&](uint32_t slot) {
      if (contents.evidence[slot] == kNone) {
        contents.evidence[slot] = told ? node : evidence_at(node, slot);
      }
    });
  }
}

// Notes what shows that a value is a rank's own. Returns the groups where no proof speaks against
// it.
GroupMask Replication::note(NodeId value, GroupMask groups, NodeId collective) {
  groups &= ~proved_[value] & topology_.all();
  each_slot(groups, [&](uint32_t slot) {
    NodeId& known = evidence_at(value, slot);
    if (known == kNone) {
      known = collective;
    } else if (known > value && !topology_.changes_equals(known) &&
               topology_.changes_equals(collective)) {
      known = collective;  // of two, the one that shows more
    }
  });
  return groups;
}

NodeId Replication::evidence(NodeId value, uint32_t group) const {
  GroupMask groups = apart(value, group);
  if ((groups & topology_.bit(group)) != 0) groups = topology_.bit(group);
  if (groups == 0) return kNone;
  const auto slot = static_cast<size_t>(std::countr_zero(groups));
  return evidence_[size_t{value} * topology_.slots() + slot];
}

bool Replication::is_shown_by_readers(NodeId value) const {
  bool later = false;
  each_slot(own_[value], [&](uint32_t slot) {
    const NodeId shows = evidence_[size_t{value} * topology_.slots() + slot];
    later = later || (shows > value && shows != kNone);
  });
  return later;
}

// Forward once more: what reads a value that a collective showed to be a rank's own.
void Replication::spread() {
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    if (table_.op(node) == Op::kCallFunction) follow_own(node);
  }
}

void Replication::carry_over() {
  if (written_.empty()) return;
  bool any = false;
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kPlaceholder && table_.op(node) != Op::kGetAttr) continue;
    const GroupMask before = own_[node] | scattered_[node];
    follow_contents(node, effects_.written_storage(node), 0);
    any = any || (own_[node] | scattered_[node]) != before;
  }
  if (any) spread();
}

bool Replication::refute(NodeId value, uint32_t group, NodeId evidence) {
  if (of(value, group) == Sharing::kOwn) return false;
  std::vector<NodeId> aliases{value};
  while (!aliases.empty()) {
    const NodeId alias = aliases.back();
    aliases.pop_back();
    if (of(alias, group) == Sharing::kOwn) continue;
    mark_own(alias, topology_.bit(group), evidence);
    for (const NodeId user : table_.users(alias)) {
      if (is_alias(user) && table_.args(user)[0].payload == alias) aliases.push_back(user);
    }
  }
  return true;
}

}  // namespace spfast
