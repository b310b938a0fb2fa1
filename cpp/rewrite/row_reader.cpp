#include "rewrite/row_reader.h"

#include <algorithm>

#include "base/work.h"
#include "rewrite/why_apart.h"
#include "table/targets.h"

namespace spfast {

RowReader::RowReader(const NodeTable& table, const RowRules& rules, const Effects& effects,
                     const Replication& replication, std::span<const TokenClass> classes)
    : table_(table),
      rules_(rules),
      effects_(effects),
      replication_(replication),
      classes_(classes),
      sources_(table),
      read_by_(table.size(), 0) {
  for (const TokenClass& one : classes) shapes_.emplace_back(table, one.tokens, one.example);
  uint32_t changes = 0;
  for (NodeId node = 0; node < table.size(); ++node) {
    if ((table.flags(node) & target_flag::kFence) != 0) ++changes;
    if (changes == 0) continue;
    streams_.resize(table.size(), 0);
    streams_[node] = changes;
  }
}

// A stream change between a value and its reader ends the region there.
bool RowReader::is_row_here(NodeId node, NodeId root, const RowLayout& layout) const {
  return layout.is_row(root) && (streams_.empty() || streams_[root] == streams_[node]);
}

const std::vector<RowOperand>& RowReader::read(NodeId node, const RowLayout& layout) {
  operands_.clear();
  ++reads_;
  why_ = {};
  class_ = kNone;
  contested_ = false;
  const RowRule* rule = rules_.find(table_.target(node));
  if (rule == nullptr) return operands_;
  for (const Argument value : table_.operands(node)) {
    if (!value.is_node()) continue;
    const NodeId alias = value.payload;
    SPFAST_WORK(1);
    if (read_by_[alias] == reads_) continue;
    read_by_[alias] = reads_;
    const NodeId root = layout.root(alias);
    operands_.push_back({alias, root, RowRole::kNone});
    if (!is_row_here(node, root, layout)) continue;
    const uint32_t one = layout.token_class[root];
    if (one == class_ || layout.is_barred(node, one)) continue;
    contested_ = class_ != kNone;
    if (contested_) continue;
    class_ = one;
    features_ = layout.features[root];
  }
  bool ok = class_ != kNone;
  if (ok && groups_tokens(node, *rule)) ok = false;
  if (ok && cuts_blocks(node, *rule)) {
    ok = false;
    why_ = {Reason::Kind::kBlocks, node, kNone, static_cast<uint64_t>(rule->block), class_};
  }
  for (RowOperand& operand : operands_) {
    if (!ok) break;
    const bool here = is_row_here(node, operand.root, layout) || !layout.is_row(operand.root);
    operand.role = here ? role_of(node, *rule, operand, layout) : RowRole::kNeedsAll;
    ok = operand.role != RowRole::kNeedsAll;
    if (!ok) why_ = reason_for(node, operand, layout, *rule);
  }
  // Each rank would take rows of its own value. Together they are rows of no value.
  const uint32_t group = ok ? classes_[class_].group : kNone;
  if (ok && replication_.is_own_by_literals(node, group)) {
    ok = false;
    why_ = why_apart(replication_, node, node, group);
    if (replication_.is_lone_part(node)) why_.kind = Reason::Kind::kRankPart;
  }
  if (!ok) operands_.clear();
  return operands_;
}

Reason RowReader::reason_for(NodeId node, const RowOperand& operand, const RowLayout& layout,
                             const RowRule& rule) const {
  using Kind = Reason::Kind;
  const bool row = layout.is_row(operand.root);
  if (row && !is_row_here(node, operand.root, layout)) {
    return {Kind::kStream, node, operand.alias, 0, 0};
  }
  const Meta& meta = table_.meta(operand.alias);
  if (meta.kind == MetaKind::kMissing) return {Kind::kUnknownSize, operand.alias, kNone, 0, 0};
  if (meta.kind != MetaKind::kTensor && meta.kind != MetaKind::kSym) return {};
  // Rows of this class are refused only where the operator reads a weight, which it reads once for
  // all tokens. Then the operator itself needs all tokens.
  if (row && layout.token_class[operand.root] == class_) return {};
  const uint32_t group = classes_[class_].group;
  if (!replication_.may_meet_shards(operand.alias, node, group)) {
    return why_apart(replication_, operand.alias, node, group);
  }
  if (meta.kind == MetaKind::kSym) return {};
  const NodeId writer = effects_.writer_of(operand.alias);
  if (writer != kNone) return {Kind::kWritten, operand.alias, writer, 0, 0};
  const bool pointwise = rule.family == RowRule::Family::kPointwise;
  return pointwise && !row ? Reason{Kind::kBroadcast, operand.alias, kNone, 0, 0}
                           : Reason{Kind::kOtherTokens, node, operand.alias, 0, 0};
}

RowRole RowReader::role_of(NodeId node, const RowRule& rule, const RowOperand& operand,
                           const RowLayout& layout) {
  using Family = RowRule::Family;
  if (rule.family == Family::kRows) {
    if (is_written(node, rule, operand.alias)) {
      return is_buffer(operand.alias, layout) ? RowRole::kBuffer : RowRole::kNeedsAll;
    }
    const auto args = table_.args(node);
    const bool positional = std::any_of(rule.rows.begin(), rule.rows.end(), [&](int32_t position) {
      return static_cast<size_t>(position) < args.size() &&
             args[static_cast<size_t>(position)] == Argument{Tag::kNode, operand.alias};
    });
    const bool wanted = positional || named(node, rule.keywords, operand.alias);
    const RowRole role = tensor_role(node, operand, layout);
    if (role == RowRole::kSame || role == RowRole::kSpread) return RowRole::kNeedsAll;
    return wanted == (role == RowRole::kRows) ? role : RowRole::kNeedsAll;
  }
  const auto args = table_.args(node);
  const bool first = !args.empty() && args[0] == Argument{Tag::kNode, operand.alias};
  const RowRole role = tensor_role(node, operand, layout);
  switch (rule.family) {
    case Family::kPointwise:
      return role;
    case Family::kAlong: {
      // All operands of such an operator have to be cut alike. A replicated operand has no rows to
      // join.
      const Meta& meta = table_.meta(operand.alias);
      return meta.kind == MetaKind::kSym || role == RowRole::kRows ? role : RowRole::kNeedsAll;
    }
    default:
      if (role == RowRole::kSame || role == RowRole::kSpread) return RowRole::kNeedsAll;
      return first == (role == RowRole::kRows) ? role : RowRole::kNeedsAll;
  }
}

bool RowReader::named(NodeId node, const std::vector<std::string>& keywords, NodeId alias) const {
  return std::any_of(keywords.begin(), keywords.end(), [&](const std::string& key) {
    return table_.kwarg(node, key) == Argument{Tag::kNode, alias};
  });
}

// The second version of auto_functionalized lists what is written to, and counts into that list;
// an argument of which it says more is a part of its base.
bool RowReader::is_written(NodeId node, const RowRule& rule, NodeId alias) const {
  if (rule.buffers.empty()) return false;
  if (named(node, rule.buffers, alias)) return true;
  const Argument list = table_.kwarg(node, "_all_bases");
  if (!is_sequence(list.tag)) return false;
  const auto bases = table_.items(list);
  if (std::count(bases.begin(), bases.end(), Argument{Tag::kNode, alias}) != 1) return false;
  const auto is_base = [&](const std::string& buffer) {
    const std::string key = "_" + buffer + "_";
    const Argument index = table_.kwarg(node, key + "base_index");
    if (index.tag != Tag::kInt) return false;
    const auto at = static_cast<size_t>(table_.as_int(index));
    const bool part = table_.kwarg(node, key + "size").tag != Tag::kAbsent ||
                      table_.kwarg(node, key + "slice_dim").tag != Tag::kAbsent;
    return !part && at < bases.size() && bases[at] == Argument{Tag::kNode, alias};
  };
  return std::any_of(rule.buffers.begin(), rule.buffers.end(), is_base);
}

// Whether an operand without rows has one number for some of the tokens.
bool RowReader::groups_tokens(NodeId node, const RowRule& rule) const {
  if (rule.groups.empty()) return false;
  const Argument sizes = table_.kwarg(node, rule.groups);
  if (sizes.tag == Tag::kAbsent || sizes.tag == Tag::kNoneType) return false;
  const auto items = is_sequence(sizes.tag) ? table_.items(sizes) : std::span<const Argument>();
  return items.empty() || items[0].tag != Tag::kInt || table_.as_int(items[0]) != -1;
}

// Whether a shard of the operator's result would not be whole blocks of the full one.
bool RowReader::cuts_blocks(NodeId node, const RowRule& rule) const {
  if (rule.block == 1) return false;
  const TokenClass& one = classes_[class_];
  if (!one.tokens.is_expr() && one.tokens.raw % (rule.block * one.ranks) == 0) return false;
  const auto plain = [&](Argument value) { return value.tag == Tag::kBool && value.payload == 0; };
  const auto args = table_.args(node);
  const bool is_plain =
      std::any_of(rule.block_if.begin(), rule.block_if.end(), [&](int32_t position) {
        const auto at = static_cast<size_t>(position);
        return at < args.size() && plain(args[at]);
      });
  const auto& keys = rule.block_if_keywords;
  return !is_plain && std::none_of(keys.begin(), keys.end(), [&](const std::string& key) {
    return plain(table_.kwarg(node, key));
  });
}

// Operands broadcast from the last dim on, so every operand has as many feature dims.
RowRole RowReader::tensor_role(NodeId node, const RowOperand& operand, const RowLayout& layout) {
  const Meta& meta = table_.meta(operand.alias);
  if (meta.kind == MetaKind::kSym) {  // a number that is read out of a tensor may be a rank's own
    const bool shared = replication_.may_meet_shards(operand.alias, node, classes_[class_].group);
    return shared ? RowRole::kNone : RowRole::kNeedsAll;
  }
  if (meta.kind != MetaKind::kTensor) return RowRole::kNeedsAll;
  const bool row = layout.is_row(operand.root);
  if (row && layout.token_class[operand.root] == class_) {
    return layout.features[operand.root] == features_ ? RowRole::kRows : RowRole::kNeedsAll;
  }
  if (!replication_.may_meet_shards(operand.alias, node, classes_[class_].group)) {
    return RowRole::kNeedsAll;
  }
  const auto dims = table_.dims(meta);
  if (dims.size() <= features_) return RowRole::kNone;
  const auto lead = dims.first(dims.size() - features_);
  const bool counted = element_count(dims.last(features_)) >= 0;
  const bool ones =
      std::all_of(lead.begin(), lead.end(), [](Dim dim) { return dim == Dim::of(1); });
  if (ones && lead.size() == 1) return RowRole::kNone;
  if (!counted && lead.size() > 1) return RowRole::kNeedsAll;
  if (ones) return row ? RowRole::kNeedsAll : RowRole::kSame;
  if (effects_.writer_of(operand.alias) != kNone) return RowRole::kNeedsAll;
  if (shapes().holds_tokens(meta, features_)) return RowRole::kRows;
  return !row && counted && spreads(node, lead) ? RowRole::kSpread : RowRole::kNeedsAll;
}

// A value that is broadcast to the dims of the result may have one row a token there: a positional
// embedding [1, s, ...], or a gate [b, 1, ...].
bool RowReader::spreads(NodeId node, std::span<const Dim> lead) {
  const Meta& to = table_.meta(node);
  if (to.kind != MetaKind::kTensor || !shapes().holds_tokens(to, features_)) return false;
  const auto dims = table_.dims(to);
  const auto wanted = dims.first(dims.size() - features_);
  if (lead.size() > wanted.size()) return false;
  const size_t more = wanted.size() - lead.size();
  bool told = true;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool has = i >= more && lead[i - more] == wanted[i];
    if (!has && i >= more && lead[i - more] != Dim::of(1)) return false;
    told = told && (has || !wanted[i].is_expr() || sources_.find(wanted[i], node));
  }
  wants_sizes_ = wants_sizes_ || !told;
  return told;
}

bool RowReader::can_restore(NodeId node, const Meta& meta, size_t features) {
  const auto dims = table_.dims(meta);
  const auto lead = dims.first(dims.size() - features);
  const auto symbolic =
      std::count_if(lead.begin(), lead.end(), [](Dim dim) { return dim.is_expr(); });
  if (symbolic <= 1) return true;
  const bool told = std::all_of(lead.begin(), lead.end(), [&](Dim dim) {
    return !dim.is_expr() || sources_.find(dim, node);
  });
  wants_sizes_ = wants_sizes_ || !told;
  return told;
}

bool RowReader::is_buffer(NodeId alias, const RowLayout& layout) const {
  static const TargetId kEmpty = intern_target("aten.empty.memory_format");
  static const TargetId kEmptyLike = intern_target("aten.empty_like.default");
  const Meta& meta = table_.meta(alias);
  const auto args = table_.args(alias);
  if (meta.kind != MetaKind::kTensor || args.size() != 1 || features_ != 1) return false;
  const auto dims = table_.dims(meta);
  if (!shapes().holds_tokens(meta, 1) || dims.back().is_expr()) return false;
  if (table_.target(alias) == kEmpty) return true;
  return table_.target(alias) == kEmptyLike && args[0].is_node() &&
         layout.is_row(layout.root(args[0].payload)) &&
         layout.token_class[layout.root(args[0].payload)] == class_;
}

}  // namespace spfast
