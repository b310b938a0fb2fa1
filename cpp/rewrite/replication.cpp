#include "rewrite/replication.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <string_view>

#include "base/work.h"
#include "rewrite/lone_parts.h"
#include "rewrite/matrix_products.h"
#include "table/targets.h"

namespace spfast {

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
  find_products();
  doubt_constants();
  doubt_parts();
  if (!doubted_.empty()) prove_again();
  doubt_sums();
  rate();
  blame();
  spread();
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
  written_ = Stored(meetings_.slots());
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
      give_away(node, kAllGroups, node);
      continue;
    }
    if (is_deterministic(node)) {
      proved_[node] = effects_.writer_of(node) == kNone ? common_groups(node) : 0;
      for (uint32_t slot = 0; !doubted_.empty() && slot < meetings_.slots(); ++slot) {
        const NodeId shows = doubted_[size_t{node} * meetings_.slots() + slot];
        if (shows == kNone) continue;
        proved_[node] &= ~slot_bit(slot);
        give_away(node, slot_bit(slot), shows);
      }
      if (proved_[node] == kAllGroups) continue;
    }
    if (known.data_sized || (known.sizes && is_data(node))) ragged[node] = kAllGroups;
    for (const Value value : table_.operands(node)) {
      if (value.is_node()) ragged[node] |= ragged[value.payload];
    }
    ragged[node] &= ~proved_[node];
    if (known.sizes) proved_[node] |= ~ragged[node];
    follow_own(node);
  }
}

void Replication::doubt_constants() {
  each_reduced([&](NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen) {
    if (!is_proved(value, group)) return;
    walk_behind(value, group, collective, seen, [&](NodeId node, bool constant) {
      if (constant) doubt(node, group, collective);
    });
  });
}

void Replication::doubt_parts() {
  bool any = false;
  for (NodeId node = 0; node < table_.size() && !any; ++node) {
    any = table_.op(node) == Op::kCallFunction && traits(node).takes_part != PartBy::kNone;
  }
  if (!any) return;
  // The groups of whose collectives something comes, through whatever computes.
  std::vector<GroupMask> from(table_.size(), 0);
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kCallFunction) continue;
    const auto [kind, group] = meetings_.of(node);
    if (kind != Collective::kNone) from[node] = meetings_.bit(group);
    if (!is_deterministic(node)) continue;
    for (const Value value : table_.operands(node)) {
      if (value.is_node()) from[node] |= from[value.payload];
    }
  }
  struct Found {
    NodeId node;
    GroupMask group;
    NodeId collective;
  };
  std::vector<Found> found;
  std::vector<GroupMask> reached(table_.size(), 0);
  each_reduced([&](NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen) {
    walk_behind(value, group, collective, seen, [&](NodeId node, bool) {
      reached[node] |= group;
      const bool part = traits(node).takes_part != PartBy::kNone && (from[node] & group) != 0;
      if (part) found.push_back({node, group, collective});
    });
  });
  for (uint32_t slot = 0; slot < meetings_.slots() && !found.empty(); ++slot) {
    const GroupMask one = slot_bit(slot);
    const auto lone =
        find_lone_parts(table_, traits_, [&](NodeId node) { return (reached[node] & one) != 0; });
    for (const Found& part : found) {
      if (part.group != one || !std::binary_search(lone.begin(), lone.end(), part.node)) continue;
      doubt(part.node, part.group, part.collective);
    }
    lone_parts_.insert(lone_parts_.end(), lone.begin(), lone.end());
  }
  std::sort(lone_parts_.begin(), lone_parts_.end());
}

void Replication::doubt_sums() {
  bool any = false;
  factors_.clear();
  each_reduced([&](NodeId value, GroupMask group, NodeId collective, std::vector<GroupMask>& seen) {
    if (!is_proved(value, group) || !meetings_.changes_equals(collective)) return;
    std::vector<NodeId> pending{value};
    seen.resize(table_.size(), 0);
    while (!pending.empty()) {
      const NodeId node = pending.back();
      pending.pop_back();
      SPFAST_WORK(1);
      if ((seen[node] & group) != 0 || !is_deterministic(node) || is_number(node)) continue;
      seen[node] |= group;
      if (!is_name(node)) {  // a name is what it names
        doubt(node, group, collective);
        any = true;
      }
      if (!treats_rows_alone(node)) continue;
      for (const Value operand : table_.operands(node)) {
        if (operand.is_node()) pending.push_back(operand.payload);
      }
    }
  });
  if (any) prove_again();
}

bool Replication::is_linear(NodeId node) const {
  static const TargetId kLinear[] = {
      intern_target("aten.add.Tensor"),
      intern_target("aten.sub.Tensor"),
      intern_target("aten.neg.default"),
      intern_target("aten.t.default"),
      intern_target("aten.transpose.int"),
      intern_target("aten.permute.default"),
      intern_target("prims.convert_element_type.default"),
      intern_target("aten._to_copy.default"),
  };
  if (is_name(node)) return true;
  const TargetId target = table_.target(node);
  return std::find(std::begin(kLinear), std::end(kLinear), target) != std::end(kLinear);
}

void Replication::find_products() {
  std::vector<GroupMask> seen;
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kCallFunction) continue;
    const auto [kind, group] = meetings_.of(node);
    const bool sums = kind == Collective::kAllReduce || kind == Collective::kReduceScatter;
    if (!sums || group == kNone || !meetings_.changes_equals(node)) continue;
    const GroupMask one = meetings_.bit(group);
    seen.resize(table_.size(), 0);
    std::vector<NodeId> pending;
    const auto add_operands = [&](NodeId of) {
      for (const Value value : table_.operands(of)) {
        if (value.is_node()) pending.push_back(value.payload);
      }
    };
    add_operands(node);
    while (!pending.empty()) {
      const NodeId current = pending.back();
      pending.pop_back();
      SPFAST_WORK(1);
      if (table_.op(current) != Op::kCallFunction || (seen[current] & one) != 0) continue;
      seen[current] |= one;
      if (is_linear(current)) {
        add_operands(current);
      } else if (const NodeId left =
                     left_operand(table_, current, product_kind(table_.target(current)));
                 product_kind(table_.target(current)) != ProductKind::kNone && left != kNone) {
        factors_.push_back({left, node, one});
      }
    }
  }
}

template <typename Of>
void Replication::each_reduced(Of of) {
  // Through whatever computes, and through operators that treat rows alone.
  std::vector<GroupMask> seen;
  std::vector<GroupMask> seen_by_rows;
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.op(node) != Op::kCallFunction) continue;
    if (traits(node).collective == Collective::kNone) continue;
    const auto [kind, group] = meetings_.of(node);
    const bool tells = kind == Collective::kAllReduce || kind == Collective::kReduceScatter ||
                       kind == Collective::kAllGather;
    if (!tells || group == kNone) continue;
    for (const Value value : table_.operands(node)) {
      if (!value.is_node()) continue;
      of(value.payload, meetings_.bit(group), node,
         meetings_.changes_equals(node) ? seen : seen_by_rows);
    }
  }
  for (const Factor& one : factors_) of(one.left, one.group, one.collective, seen);
}

template <typename Of>
void Replication::walk_behind(NodeId value, GroupMask group, NodeId collective,
                              std::vector<GroupMask>& seen, Of of) {
  std::vector<NodeId> pending{value};
  while (!pending.empty()) {
    const NodeId node = pending.back();
    pending.pop_back();
    SPFAST_WORK(1);
    if (!is_deterministic(node) || is_number(node)) continue;
    seen.resize(table_.size(), 0);
    if ((seen[node] & group) == group) continue;
    seen[node] |= group;
    bool constant = true;
    const bool follows = meetings_.changes_equals(collective) || treats_rows_alone(node);
    for (const Value operand : table_.operands(node)) {
      if (!operand.is_node() || is_number(operand.payload)) continue;
      constant = false;
      if (follows || is_constant(operand.payload)) pending.push_back(operand.payload);
    }
    of(node, constant);
  }
}

// Whether a value is computed of literals and sizes alone.
bool Replication::is_constant(NodeId value) {
  if (constants_.empty()) {
    constants_.assign(table_.size(), false);
    for (NodeId node = 0; node < table_.size(); ++node) {
      const auto operands = table_.operands(node);
      constants_[node] =
          is_deterministic(node) && std::all_of(operands.begin(), operands.end(), [&](Value one) {
            return !one.is_node() || is_number(one.payload) || constants_[one.payload];
          });
    }
  }
  return constants_[value];
}

void Replication::doubt(NodeId node, GroupMask group, NodeId collective) {
  if (doubted_.empty()) doubted_.assign(evidence_.size(), kNone);
  each_slot(group,
            [&](uint32_t slot) { doubted_[size_t{node} * meetings_.slots() + slot] = collective; });
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
  if (!effects_.any_writes()) return;
  GroupMask own = own_[node];
  const bool told = std::binary_search(trust_.writers.begin(), trust_.writers.end(), node);
  if (told) own = meetings_.all();
  if ((own | scattered_[node]) == 0) return;
  for (const NodeId storage : effects_.storages_written_by(node)) {
    Stored::Contents& contents = written_.of(storage);
    contents.own |= own;
    contents.scattered |= scattered_[node];
    each_slot(own | scattered_[node], [&](uint32_t slot) {
      if (contents.evidence[slot] == kNone) {
        contents.evidence[slot] = told ? node : evidence_at(node, slot);
      }
    });
  }
}

// Notes what gives a value away; returns the groups of which that is no contradiction.
GroupMask Replication::note(NodeId value, GroupMask groups, NodeId collective) {
  groups &= ~proved_[value] & meetings_.all();
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
