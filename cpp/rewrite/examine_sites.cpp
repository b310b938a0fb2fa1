#include "rewrite/examine_sites.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/sorted.h"
#include "rewrite/alias_checks.h"
#include "rewrite/assumptions.h"
#include "rewrite/fresh_buffer.h"
#include "rewrite/held_sites.h"
#include "rewrite/known_meta.h"
#include "rewrite/layouts.h"
#include "rewrite/row_cut.h"
#include "rewrite/row_growth.h"
#include "rewrite/stride_checks.h"
#include "rewrite/token_classes.h"
#include "rewrite/why_apart.h"
#include "table/targets.h"

namespace spfast {
namespace {

// The most rounds in which rows are grown anew. Each costs as much as the first. A graph whose sums
// alternate between groups needs several.
constexpr int kRounds = 16;
// The most rounds in which sites are examined anew because an assumption contradicts the graph.
// After the last one, nothing is taken on trust.
constexpr int kRefutals = 8;

class Examiner {
 public:
  Examiner(const NodeTable& table, const ProgramSet& programs, MatchResult& matches,
           std::span<const GroupInfo> groups, std::span<const JudgedClass> judged,
           const Effects& effects, const Replication& replication, std::span<const HeldSite> held,
           const RowRules* rows, Costs costs)
      : table_(table),
        programs_(programs),
        matches_(matches),
        effects_(effects),
        replication_(replication),
        held_(held),
        rows_(rows),
        costs_(std::move(costs)),
        classes_(table, groups, judged, out_.classes),
        aliases_(table, effects, out_.missing),
        layouts_(table, rows),
        stamp_(table.size(), kNone) {
    out_.local_outputs = costs_.local_outputs;
  }

  Sites run() {
    auto shorter = matches_.shorter.begin();
    for (uint32_t i = 0; i < matches_.matches.size(); ++i) {
      Match& match = matches_.matches[i];
      Site site = examined(i);
      for (; shorter != matches_.shorter.end() && shorter->anchor == match.anchor; ++shorter) {
        // The reason that is reported is the longest match's. A site without an interior was
        // refused for its tokens, which shorter matches have too.
        if (site.reason.empty() || site.interior.empty()) continue;
        forget(site);
        std::swap(match, *shorter);
        if (Site other = examined(i); other.reason.empty()) {
          site = std::move(other);
        } else {
          forget(other);
          std::swap(match, *shorter);
        }
      }
      held_.hold(site);
      out_.sites.push_back(std::move(site));
    }
    check_strides(table_, matches_, layouts_, out_);
    if (rows_ != nullptr) examine_unmatched();
    held_.hold_regions(out_);
    sort_unique(out_.missing);
    return std::move(out_);
  }

 private:
  Site examined(uint32_t index) {
    Site site;
    site.match = index;
    match_ = &matches_.matches[index];
    site.anchor = match_->anchor;
    anchor_ = &matches_.anchors[match_->anchor];
    examine(site);
    return site;
  }

  // Takes a site's values out of the stream again.
  void forget(const Site& site) {
    for (const NodeId node : site.interior) stamp_[node] = kNone;
  }

  void examine(Site& site) {
    const auto dims = table_.dims(table_.meta(anchor_->all_reduce));
    site.flat = dims.size() > 2;
    look_ = matches_.look(dims.back().raw);
    if (!classes_.find(site, *anchor_)) return;
    want_input();
    site.strided = !layouts_.is_dense(table_.meta(anchor_->all_reduce));
    collect_interior(site);
    if (!site.reason.empty()) return;
    check_effects(site);
    if (!site.reason.empty()) return;
    for (const NodeId node : site.interior) {
      if ((table_.flags(node) & target_flag::kGetItem) != 0) continue;
      read_operands(site, node);
      if (!site.reason.empty()) return;
    }
    if (site.views) check_rows(site);
    if (site.views && site.reason.empty()) check_dims(site);
  }

  // Two operands may have their rows in different dims. Then they may have been broadcast to more
  // rows than tokens. So each result is checked to have one row for each token.
  void check_rows(Site& site) {
    const Dim tokens = out_.classes[site.token_class].tokens;
    const auto has_rows = [&](const Meta& part) {
      return part.kind != MetaKind::kTensor || part.tokens == tokens;
    };
    for (size_t i = 1; i < site.operands.size(); ++i) {
      const NodeId node = site.operands[i].user;
      if (site.operands[i - 1].user != node) continue;
      const Meta* meta = need(site, node);
      if (!site.reason.empty()) return;
      if (meta == nullptr) continue;
      const auto parts = table_.parts(*meta);
      const bool each = std::all_of(parts.begin(), parts.end(),
                                    [&](uint32_t part) { return has_rows(table_.meta_at(part)); });
      if (has_rows(*meta) && each) continue;
      site.reason = {Reason::Kind::kFlattened, node, kNone, 0, 0};
      return;
    }
  }

  // A rule may have matched a positive number as the last dim, counted on the stream. An operand
  // may have added dims since. So the number is checked to name the last dim still.
  void check_dims(Site& site) {
    const auto& steps = programs_.nodes();
    for (uint32_t at = match_->tree_node; at != kNone; at = steps[at].parent) {
      for (const NodeId node : site.interior) {
        const auto args = table_.args(node);
        for (const Location& where : last_dim_locations(steps[at].step, table_.target(node))) {
          if (where.position < 1 || static_cast<size_t>(where.position) >= args.size()) continue;
          Argument dim = args[static_cast<size_t>(where.position)];
          if (is_sequence(dim.tag)) {
            const auto items = table_.items(dim);
            if (!items.empty()) dim = items[0];
          }
          if (dim.tag != Tag::kInt || table_.as_int(dim) < 0 || !args[0].is_node()) continue;
          const Meta* meta = need(site, args[0].payload);
          if (meta == nullptr) return;
          if (table_.as_int(dim) + 1 == static_cast<int64_t>(table_.dims(*meta).size())) continue;
          site.reason = {Reason::Kind::kDim, node, args[0].payload, 0, 0};
          return;
        }
      }
    }
  }

  // Whether no rule matched an all_reduce, or only one that asks too much of its operands.
  [[nodiscard]] bool may_be_rowwise(const AnchorReport& report) const {
    using enum Outcome;
    const Outcome outcome = report.outcome;
    if (outcome == kMatched) return asks_too_much(out_.sites[report.match].reason.kind);
    return outcome == kNoMatch || outcome == kClaimed || outcome == kTooMany;
  }

  // Makes sites of all_reduces that no rule matched. The row-wise view may take these all the same.
  void examine_unmatched() {
    std::vector<bool> examined(matches_.anchors.size(), false);
    for (int round = 0; out_.missing.empty(); ++round) {
      for (uint32_t i = 0; i < matches_.anchors.size(); ++i) {
        if (examined[i] || !may_be_rowwise(matches_.reports[i])) continue;
        examined[i] = true;
        examine_rows(i);
      }
      if (!grow_rows(table_, *rows_, matches_, effects_, replication_, out_)) break;
      if (cut_rows(table_, *rows_, matches_, effects_, replication_, out_, costs_,
                   round < kRounds)) {
        break;
      }
    }
  }

  void examine_rows(uint32_t anchor) {
    Site site;
    site.anchor = anchor;
    anchor_ = &matches_.anchors[anchor];
    site.flat = table_.dims(table_.meta(anchor_->all_reduce)).size() > 2;
    if (classes_.find(site, *anchor_)) {
      want_input();
      check_value(site, anchor_->reduced);
      check_value(site, anchor_->all_reduce);
    }
    held_.hold(site);
    out_.sites.push_back(std::move(site));
  }

  [[nodiscard]] bool in_stream(NodeId node) const {
    return stamp_[look_.root(node)] == match_->anchor;
  }

  // Collects the operations that depend on the reduced value, and the parts of their tuples.
  void collect_interior(Site& site) {
    stamp_[look_.root(anchor_->reduced)] = match_->anchor;
    std::vector<NodeId> pending(match_->operations.begin() + 1, match_->operations.end());
    sort_unique(pending);
    for (const NodeId node : pending) {
      const auto operands = table_.operands(node);
      const bool depends = std::any_of(operands.begin(), operands.end(), [&](Argument value) {
        return value.is_node() && in_stream(value.payload);
      });
      if (!depends || stamp_[node] == match_->anchor) continue;
      stamp_[node] = match_->anchor;
      site.interior.push_back(node);
      adopt_parts(site, node);
    }
    std::sort(site.interior.begin(), site.interior.end());
  }

  // Makes the parts of a tuple values of the site. A tuple that is read as a whole cannot be
  // gathered: its site stays.
  void adopt_parts(Site& site, NodeId node) {
    const auto users = table_.users(node);
    const auto is_part = [&](NodeId user) { return table_.whole_of(user) == node; };
    if (std::none_of(users.begin(), users.end(), is_part)) return;
    const Meta& meta = table_.meta(node);
    if (meta.kind == MetaKind::kUnknown) out_.missing.push_back(node);
    // These are rows of a tensor, not parts of a tuple. The tensor is needed in full.
    if (meta.kind == MetaKind::kTensor) return;
    for (const NodeId user : users) {
      if (!is_part(user)) {
        site.reason = {Reason::Kind::kWholeTuple, node, user, 0, 0};
        return;
      }
      stamp_[user] = match_->anchor;
      site.interior.push_back(user);
    }
  }

  void check_effects(Site& site) {
    const NodeId first = anchor_->all_reduce, last = site.interior.back();
    // A write between the two only matters to readers of what is written: so each value is checked.
    const NodeId change = effects_.change_between(first, last);
    if (change != kNone) return void(site.reason = {Reason::Kind::kFence, change, kNone, 0, 0});
    check_value(site, first);
    check_value(site, anchor_->reduced);
    for (const NodeId node : site.interior) check_value(site, node);
  }

  void check_value(Site& site, NodeId value) const {
    if (!site.reason.empty()) return;
    if (const NodeId writer = effects_.writer_of(value); writer != kNone) {
      site.reason = {Reason::Kind::kWritten, value, writer, 0, 0};
    } else if (LookThrough::wants_format(table_, value)) {
      site.reason = {Reason::Kind::kFormat, value, kNone, 0, 0};
    }
  }

  void read_operands(Site& site, NodeId node) {
    const auto operands = table_.operands(node);
    for (auto at = operands.begin(); at != operands.end(); ++at) {
      if (!at->is_node() || std::find(operands.begin(), at, *at) != at) continue;
      read_operand(site, node, at->payload);
      if (!site.reason.empty()) return;
    }
  }

  void read_operand(Site& site, NodeId user, NodeId alias) {
    const NodeId root = look_.root(alias);
    if (stamp_[root] == match_->anchor) {
      aliases_.check(site, alias, root, look_);
      site.operands.push_back({SiteOperand::Kind::kStream, user, alias, root});
      return;
    }
    const Role role = role_of(alias);
    if (role != Role::kBuffer && !may_be_read(site, root, user)) return;
    switch (role) {
      case Role::kBuffer:
        check_buffer(site, alias);
        site.operands.push_back({SiteOperand::Kind::kBuffer, user, alias, alias});
        return;
      case Role::kRows:
        read_rows(site, user, alias, root);
        return;
      case Role::kReplicated:
        if (!read_replicated(site, user, alias) && site.reason.empty()) {
          site.reason = {Reason::Kind::kBroadcast, alias, kNone, 0, 0};
        }
        return;
    }
  }

  // Whether a value may be read beside shards. One that each rank has for itself may not: the
  // ranks' rows would belong to different results.
  bool may_be_read(Site& site, NodeId value, NodeId reader) const {
    const uint32_t group = out_.classes[site.token_class].group;
    if (replication_.may_meet_shards(value, reader, group)) return true;
    site.reason = why_apart(replication_, value, reader, group);
    return false;
  }

  [[nodiscard]] Role role_of(NodeId alias) const {
    const auto& roles = programs_.rules()[match_->rule].roles;
    for (size_t i = 0; i < roles.size(); ++i) {
      const Argument bound = match_->parameters[i];
      if (bound.is_node() && look_.root(bound.payload) == look_.root(alias)) return roles[i];
    }
    return Role::kReplicated;
  }

  void read_rows(Site& site, NodeId user, NodeId alias, NodeId root) {
    aliases_.check(site, alias, root, look_);
    if (!site.reason.empty()) return;
    const Meta* meta = need(site, root);
    if (meta == nullptr) return;
    const auto dims = table_.dims(*meta);
    if (dims.size() >= 2 && (dims.size() == 2 || !dims.back().is_expr()) &&
        meta->tokens == out_.classes[site.token_class].tokens) {
      // The same number of rows may lie in other dims. Then the result may have more dims, or more
      // rows, than the stream.
      const auto stream = table_.dims(table_.meta(anchor_->all_reduce));
      site.views =
          site.views || !std::equal(dims.begin(), dims.end() - 1, stream.begin(), stream.end() - 1);
      site.strided = site.strided || !layouts_.is_dense(*meta);
      site.operands.push_back({SiteOperand::Kind::kRows, user, alias, root});
    } else if (!read_replicated(site, user, alias)) {
      site.reason = {Reason::Kind::kResidualShape, root, anchor_->all_reduce, 0, 0};
    }
  }

  // Whether an operand is the same for every token, so that it broadcasts over any number of rows.
  // If it has more leading dims than a shard, all of size 1, it is read without them.
  bool read_replicated(Site& site, NodeId user, NodeId node) {
    const Meta* meta = need(site, node);
    if (meta == nullptr || meta->kind != MetaKind::kTensor) return true;
    const auto dims = table_.dims(*meta);
    const bool ones = dims.size() <= 1 || meta->tokens == Dim::of(1);
    if (!ones || dims.size() <= 2 || dims.back().is_expr()) return ones && dims.size() <= 2;
    site.views = true;
    site.operands.push_back({SiteOperand::Kind::kSame, user, node, node});
    return true;
  }

  // A collective takes memory as it is. The strides of what is scattered have to be known, for it
  // may have to be copied first.
  void want_input() {
    const NodeId input = table_.args(anchor_->all_reduce)[0].payload;
    if (table_.meta(input).kind == MetaKind::kUnknown) out_.missing.push_back(input);
  }

  void check_buffer(Site& site, NodeId node) {
    const Meta* meta = need(site, node);
    if (meta == nullptr) return;
    const auto in_here = [&](NodeId like) { return in_stream(like); };
    if (!is_fresh_buffer(table_, node, *meta, out_.classes[site.token_class].tokens, in_here)) {
      site.reason = {Reason::Kind::kBuffer, node, kNone, 0, 0};
    }
  }

  const Meta* need(Site& site, NodeId node) { return known_meta(table_, node, site, out_.missing); }

  const NodeTable& table_;
  const ProgramSet& programs_;
  MatchResult& matches_;
  const Effects& effects_;
  const Replication& replication_;
  HeldSites held_;
  const RowRules* rows_;
  Costs costs_;
  Sites out_;
  TokenClasses classes_;
  AliasChecks aliases_;
  Layouts layouts_;
  std::vector<uint32_t> stamp_;  // by node: the anchor whose stream it is in
  const Match* match_ = nullptr;
  const Anchor* anchor_ = nullptr;
  LookThrough look_;
};

}  // namespace

Sites examine_sites(const NodeTable& table, const ProgramSet& programs, MatchResult& matches,
                    std::span<const GroupInfo> groups, std::span<const JudgedClass> judged,
                    const Effects& effects, Replication& replication,
                    std::span<const HeldSite> held, const RowRules* rows, Costs costs) {
  for (int round = 0;; ++round) {
    Sites sites =
        Examiner(table, programs, matches, groups, judged, effects, replication, held, rows, costs)
            .run();
    if (!sites.missing.empty()) return sites;
    if (!refute_assumptions(table, matches.anchors, sites, replication)) return sites;
    if (round >= kRefutals) replication.trust_nothing();
  }
}

}  // namespace spfast
