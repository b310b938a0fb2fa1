#include "rewrite/row_growth.h"

#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "base/work.h"
#include "rewrite/row_reader.h"
#include "rewrite/site_tails.h"
#include "rewrite/token_sums.h"
#include "table/targets.h"

namespace spfast {
namespace {

using Family = RowRule::Family;

class Growth {
 public:
  Growth(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
         const Effects& effects, const Replication& replication, Sites& sites)
      : table_(table),
        rules_(rules),
        matches_(matches),
        effects_(effects),
        replication_(replication),
        sites_(sites),
        layout_(sites.layout) {
    layout_.token_class.assign(table.size(), kNone);
    layout_.features.assign(table.size(), 1);
    layout_.forget_aliases(table.size());
    layout_.reshapes.assign(table.size(), false);
    layout_.dims.clear();
    layout_.sums.clear();
    sites_.not_grown.clear();
  }

  bool run() {
    plant();
    if (!know_values()) return false;
    layout_.forget_aliases(table_.size());
    sizes_known_ = true;
    RowReader reader(table_, rules_, effects_, replication_, sites_.classes);
    for (NodeId node = 0; node < table_.size(); ++node) {
      SPFAST_WORK(1);
      if (seed_[node] || table_.op(node) != Op::kCallFunction || !reached_[node]) continue;
      if (const NodeId whole = table_.whole_of(node); whole != kNone) {
        grow_part(node, whole);
      } else if (!grow_alias(node)) {
        grow(node, reader);
      }
    }
    if (reader.wants_sizes()) reader.want_sizes(sites_.missing);
    find_token_sums(table_, matches_, effects_, sites_);
    return sites_.missing.empty();
  }

 private:
  // The values that are sharded, or may be, before anything is grown.
  void plant() {
    seed_.assign(table_.size(), false);
    for (const Site& site : sites_.sites) {
      const auto dims = table_.dims(table_.meta(matches_.anchors[site.anchor].all_reduce));
      widths_.insert(dims.back().raw);
    }
    for (const Site& site : sites_.sites) {
      if (!site.reason.empty()) continue;
      const auto add = [&](NodeId node) {
        layout_.token_class[node] = site.token_class;
        seed_[node] = true;
      };
      add(matches_.anchors[site.anchor].reduced);
      for (const NodeId node : site.interior) add(node);
    }
  }

  // --- what has to be known ---------------------------------------------------------------------

  // Everything that a chain of operators with row-wise rules leads to. Whether they are row-wise
  // here is found out when the sizes are known.
  bool know_values() {
    reached_ = seed_;
    auto& missing = sites_.missing;
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (reached_[node] || table_.op(node) != Op::kCallFunction) continue;
      const bool part = table_.whole_of(node) != kNone;
      if (!part && rules_.find(table_.target(node)) == nullptr && !is_identity(node)) continue;
      const auto operands = table_.operands(node);
      reached_[node] = std::any_of(operands.begin(), operands.end(), [&](Argument value) {
        return value.is_node() && reached_[value.payload];
      });
      if (!reached_[node]) continue;
      if (const NodeId source = by_width(node); source != kNone) {
        layout_.add_alias(node, source);
        want(layout_.root(source), missing);
        continue;
      }
      want(node, missing);
      for (const Argument value : operands) {
        if (value.is_node()) want(value.payload, missing);
      }
    }
    return missing.empty();
  }

  void want(NodeId node, std::vector<NodeId>& missing) const {
    if (table_.meta(node).kind == MetaKind::kUnknown) missing.push_back(node);
  }

  [[nodiscard]] bool is_identity(NodeId node) const {
    return (table_.flags(node) & target_flag::kIdentity) != 0;
  }

  // The value that the node is an alias of, by its literals alone: its sizes are not read.
  [[nodiscard]] NodeId by_width(NodeId node) const {
    constexpr uint8_t kAlias = target_flag::kView | target_flag::kIdentity;
    if ((table_.flags(node) & kAlias) == 0) return kNone;
    const auto width = LookThrough::width_of(table_, node);
    const NodeId source = LookThrough::source(table_, node, width.value_or(0));
    if (source == kNone || !reached_[source]) return kNone;
    const NodeId root = layout_.root(source);
    const Meta& meta = table_.meta(root);
    const auto dims = table_.dims(meta);
    if (meta.kind == MetaKind::kTensor && !dims.empty()) {
      const bool same = !width || dims.back() == Dim::of(*width);
      return same && widths_.contains(dims.back().raw) ? source : kNone;
    }
    const bool streams = !width || widths_.contains(*width);
    return streams && !sizes_known_ && seed_[root] ? source : kNone;
  }

  // --- growing ----------------------------------------------------------------------------------

  bool grow_alias(NodeId node) {
    const NodeId source = by_width(node);
    if (source == kNone) return false;
    const NodeId root = layout_.root(source);
    if (!layout_.is_row(root) || layout_.features[root] != 1) return false;
    if (effects_.writer_of(node) != kNone) return true;
    layout_.add_alias(node, source);
    return true;
  }

  // A part of a tuple. What getitem takes of a tensor is one of its rows, and no part of a tuple.
  void grow_part(NodeId node, NodeId whole) {
    if (table_.meta(whole).kind != MetaKind::kTuple) return;
    if (seed_[whole] || !layout_.is_row(whole)) return;
    layout_.token_class[node] = layout_.token_class[whole];
    layout_.features[node] = layout_.features[whole];
  }

  void grow(NodeId node, RowReader& reader) {
    const auto& operands = reader.read(node, layout_);
    if (operands.empty()) {
      if (!reader.why().empty()) refuse(node, reader.why());
      return;
    }
    if (table_.users(node).empty()) return;
    if (const NodeId writer = effects_.writer_of(node); writer != kNone) {
      return refuse(node, {Reason::Kind::kWritten, node, writer, 0, 0});
    }
    if (LookThrough::wants_format(table_, node)) {
      return refuse(node, {Reason::Kind::kFormat, node, kNone, 0, 0});
    }
    const RowRule& rule = *rules_.find(table_.target(node));
    const Meta& from = table_.meta(operands[0].alias);
    const Meta& to = table_.meta(node);
    switch (rule.family) {
      case Family::kPointwise:
      case Family::kRows:
        accept(node, reader, to, reader.features());
        return;
      case Family::kView:
        grow_view(node, reader, from, to);
        return;
      case Family::kExpand:
        if (reader.shapes().holds_tokens(to, reader.features())) {
          accept_reshaped(node, reader, to, reader.features());
        }
        return;
      case Family::kNorm:
        if (norm_dims(node, rule) <= reader.features()) {
          accept(node, reader, to, reader.features());
        }
        return;
      case Family::kReduce:
      case Family::kAlong:
        grow_along(node, reader, rule, from, to);
        return;
      case Family::kUnsqueeze:
      case Family::kSqueeze:
        grow_squeeze(node, reader, rule, from, to);
        return;
      case Family::kNone:
        return;
    }
  }

  // The node becomes row-wise if every token's features end up in its last `features` dims.
  bool accept(NodeId node, RowReader& reader, const Meta& to, size_t features) {
    using Kind = Reason::Kind;
    const auto problem = [&](const Meta& meta) -> Reason {
      if (meta.kind != MetaKind::kTensor) return {Kind::kUnknownSize, node, kNone, 0, 0};
      if (!reader.shapes().holds_tokens(meta, features))
        return {Kind::kFlattened, node, kNone, 0, 0};
      if (!rules_.quantised() && is_quantised(meta)) return {Kind::kQuantised, node, kNone, 0, 0};
      // A size of -1 can only be inferred if there are elements.
      const auto dims = table_.dims(meta);
      const int64_t count = element_count(dims.last(features));
      if (count == 0 || (count < 0 && dims.size() > features + 1)) {
        return {Kind::kFeatures, node, kNone, 0, 0};
      }
      if (!reader.can_restore(node, meta, features)) return {Kind::kLeadingDims, node, kNone, 0, 0};
      return {};
    };
    Reason why;
    if (to.kind == MetaKind::kTuple) {
      for (const NodeId user : table_.users(node)) {
        if (table_.whole_of(user) != node) why = {Kind::kWholeTuple, node, user, 0, 0};
      }
      for (const uint32_t id : table_.parts(to)) {
        if (id == kNone || table_.meta_at(id).kind != MetaKind::kTensor) continue;
        if (why.empty()) why = problem(table_.meta_at(id));
      }
    } else {
      why = problem(to);
    }
    if (!why.empty()) {
      refuse(node, why);
      return false;
    }
    layout_.token_class[node] = reader.token_class();
    layout_.features[node] = static_cast<uint8_t>(features);
    return true;
  }

  // The same of a node whose sizes are written anew, with what is left over for the tokens.
  void accept_reshaped(NodeId node, RowReader& reader, const Meta& to, size_t features) {
    if (element_count(table_.dims(to).last(features)) < 0) {
      return refuse(node, {Reason::Kind::kFeatures, node, kNone, 0, 0});
    }
    if (accept(node, reader, to, features)) layout_.reshapes[node] = true;
  }

  void refuse(NodeId node, const Reason& why) { sites_.not_grown.insert_or_assign(node, why); }

  [[nodiscard]] bool is_quantised(const Meta& meta) const {
    const std::string_view dtype = table_.string(meta.dtype);
    return dtype.find("float8") != std::string_view::npos ||
           dtype.find("int8") != std::string_view::npos;
  }

  void grow_view(NodeId node, RowReader& reader, const Meta& from, const Meta& to) {
    if (to.kind != MetaKind::kTensor) return;
    const uint32_t features = reader.shapes().features_of_view(from, reader.features(), to);
    if (features == kNone) {
      return refuse(node, {Reason::Kind::kReshaped, node, table_.args(node)[0].payload, 0, 0});
    }
    const auto before = table_.dims(from).last(reader.features());
    const auto after = table_.dims(to).last(features);
    if (std::equal(before.begin(), before.end(), after.begin(), after.end())) {
      layout_.add_alias(node, table_.args(node)[0].payload);
    } else {
      accept_reshaped(node, reader, to, features);
    }
  }

  [[nodiscard]] size_t norm_dims(NodeId node, const RowRule& rule) const {
    const Argument sizes = argument(node, rule.position);
    if (!is_sequence(sizes.tag)) return SIZE_MAX;
    return table_.items(sizes).size();
  }

  [[nodiscard]] Argument argument(NodeId node, int32_t position) const {
    const auto args = table_.args(node);
    return static_cast<size_t>(position) < args.size() ? args[static_cast<size_t>(position)]
                                                       : Argument{};
  }

  void grow_along(NodeId node, RowReader& reader, const RowRule& rule, const Meta& from,
                  const Meta& to) {
    const size_t rank = table_.dims(from).size();
    const size_t lead = rank - reader.features();
    Argument value = argument(node, rule.position);
    std::vector<int64_t> dims;
    if (is_sequence(value.tag)) {
      for (const Argument item : table_.items(value)) {
        if (item.tag != Tag::kInt) return;
        dims.push_back(table_.as_int(item));
      }
    } else if (value.tag == Tag::kInt) {
      dims.push_back(table_.as_int(value));
    } else if (rule.family == Family::kAlong && value.tag == Tag::kAbsent &&
               table_.kwarg(node, "dim").tag == Tag::kAbsent) {
      dims.push_back(rule.default_dim);
    }
    if (dims.empty()) return;  // over everything, or told in a way that we do not read
    bool from_front = false;
    for (const int64_t dim : dims) {
      const int64_t at = dim < 0 ? dim + static_cast<int64_t>(rank) : dim;
      if (at < static_cast<int64_t>(lead)) return;
      from_front = from_front || dim >= 0;
    }
    if (value.tag == Tag::kAbsent && from_front && lead != 1) return;
    const size_t out_rank = result_rank(to);
    if (out_rank < lead || !accept(node, reader, to, out_rank - lead)) return;
    fix_dims(node, rule, rank, from_front && lead != 1);
  }

  void grow_squeeze(NodeId node, RowReader& reader, const RowRule& rule, const Meta& from,
                    const Meta& to) {
    const Argument value = argument(node, rule.position);
    if (value.tag != Tag::kInt || to.kind != MetaKind::kTensor) return;
    const size_t rank = table_.dims(from).size();
    const size_t lead = rank - reader.features();
    const bool grows = rule.family == Family::kUnsqueeze;
    const size_t counted = rank + (grows ? 1 : 0);
    const int64_t dim = table_.as_int(value);
    const int64_t at = dim < 0 ? dim + static_cast<int64_t>(counted) : dim;
    if (at < static_cast<int64_t>(lead)) {  // among the dims of tokens, which a shard does not have
      if (reader.shapes().holds_tokens(to, reader.features())) {
        layout_.add_alias(node, table_.args(node)[0].payload);
      }
      return;
    }
    const size_t out_rank = table_.dims(to).size();
    if (out_rank < lead || !accept(node, reader, to, out_rank - lead)) return;
    fix_dims(node, rule, counted, dim >= 0 && lead != 1);
  }

  void fix_dims(NodeId node, const RowRule& rule, size_t rank, bool needed) {
    if (!needed) return;
    layout_.dims.push_back(
        {node, static_cast<uint32_t>(rule.position), static_cast<uint32_t>(rank)});
  }

  [[nodiscard]] size_t result_rank(const Meta& to) const {
    if (to.kind == MetaKind::kTensor) return table_.dims(to).size();
    if (to.kind != MetaKind::kTuple) return 0;
    for (const uint32_t id : table_.parts(to)) {
      if (id != kNone && table_.meta_at(id).kind == MetaKind::kTensor) {
        return table_.dims(table_.meta_at(id)).size();
      }
    }
    return 0;
  }

  const NodeTable& table_;
  const RowRules& rules_;
  const MatchResult& matches_;
  const Effects& effects_;
  const Replication& replication_;
  Sites& sites_;
  RowLayout& layout_;
  std::unordered_set<int64_t> widths_;  // of the streams
  std::vector<bool> seed_;              // sharded, or the value of an all_reduce that may be
  std::vector<bool> reached_;           // by a chain of operators with a rule
  bool sizes_known_ = false;
};

}  // namespace

bool grow_rows(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
               const Effects& effects, const Replication& replication, Sites& sites) {
  drop_wide_tails(table, rules, matches.anchors, sites);
  return Growth(table, rules, matches, effects, replication, sites).run();
}

}  // namespace spfast
