#include "rewrite/row_cut.h"

#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "base/work.h"
#include "rewrite/layouts.h"
#include "rewrite/max_flow.h"

namespace spfast {
namespace {

// What a gather costs beside its bytes (for each token), in 1/1024 bytes: of cuts that move the
// same, the one with fewer gathers.
constexpr int64_t kBytes = 1024;
constexpr int64_t kGather = 1;

// How far a value is followed to say why its all_reduce stays: a reason is asked for each.
constexpr size_t kLookedAt = 64;

class Cutter {
 public:
  Cutter(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
         const Effects& effects, const Replication& replication, Sites& sites)
      : table_(table),
        matches_(matches),
        sites_(sites),
        layout_(sites.layout),
        reader_(table, rules, effects, replication, sites.classes),
        layouts_(table, &rules),
        index_(table.size(), kNone),
        state_(table.size(), State::kFree),
        full_(table.size(), false) {}

  bool run(bool may_grow_anew) {
    find_seeds();
    read_uses();
    sort_by_class();
    for (uint32_t one = 0; one < sites_.classes.size(); ++one) {
      if (sites_.classes[one].refused.empty()) cut(one);
    }
    if (may_grow_anew && bar_contested()) return false;
    settle_anchors();
    rename_operands();
    return true;
  }

 private:
  enum class State : uint8_t {
    kFree,     // sharded or full, as the cut says
    kSharded,  // a value of a matched site
    kReduced,  // of an all_reduce without a match
  };
  struct Use {
    NodeId root;
    NodeId user;
  };

  void find_seeds() {
    for (const Site& site : sites_.sites) {
      if (!site.reason.empty()) continue;
      const State state = site.match == kNone ? State::kReduced : State::kSharded;
      state_[matches_.anchors[site.anchor].reduced] = state;
      for (const NodeId node : site.interior) state_[node] = State::kSharded;
    }
  }

  // A graph may have as many classes as sites: each looks at its own alone.
  void sort_by_class() {
    rows_of_.resize(sites_.classes.size());
    sites_of_.resize(sites_.classes.size());
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (layout_.is_row(node)) rows_of_[layout_.token_class[node]].push_back(node);
    }
    for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
      const Site& site = sites_.sites[i];
      if (site.reason.empty()) sites_of_[site.token_class].push_back(i);
    }
  }

  // Who reads which value row by row: the operands of what was grown, and of the matched sites.
  void read_uses() {
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (!layout_.is_row(node) || state_[node] != State::kFree) continue;
      if (const NodeId whole = table_.whole_of(node); whole != kNone) {
        uses_.push_back({whole, node});
        continue;
      }
      const auto& operands = reader_.read(node, layout_);
      if (reader_.contested()) contested_.push_back(node);
      for (const RowOperand& operand : operands) {
        // Rows of another class of tokens are gathered and cut anew: no use of the shard.
        if (operand.role == RowRole::kRows && layout_.is_row(operand.root) &&
            layout_.token_class[operand.root] == layout_.token_class[node]) {
          uses_.push_back({operand.root, node});
        }
      }
    }
    for (const Site& site : sites_.sites) {
      if (!site.reason.empty()) continue;
      for (const SiteOperand& operand : site.operands) {
        const NodeId root = layout_.root(operand.root);
        if (operand.kind != SiteOperand::Kind::kBuffer && layout_.is_row(root) &&
            layout_.token_class[root] == site.token_class) {
          uses_.push_back({root, operand.user});
        }
      }
    }
    std::sort(uses_.begin(), uses_.end(), [](const Use& a, const Use& b) {
      return std::pair{a.root, a.user} < std::pair{b.root, b.user};
    });
  }

  [[nodiscard]] std::span<const Use> uses_of(NodeId root) const {
    const auto begin =
        std::lower_bound(uses_.begin(), uses_.end(), root,
                         [](const Use& use, NodeId node) { return use.root < node; });
    auto end = begin;
    while (end != uses_.end() && end->root == root) ++end;
    return {begin, end};
  }

  // At most `most`, so that all costs together stay below what is never cut.
  [[nodiscard]] int64_t cost(NodeId node, int64_t most) const {
    const Meta& meta = table_.meta(node);
    if (meta.kind != MetaKind::kTensor) {
      // A value of a matched site that nobody had to look at: as large as what was reduced.
      return kBytes;
    }
    const auto dims = table_.dims(meta).last(layout_.features[node]);
    const int64_t elements = element_count(dims);
    if (elements < 0) return kBytes;  // of a width that is not known
    const int64_t each = dtype_bytes(table_.string(meta.dtype)) * kBytes;
    return std::min(elements, (most - kGather) / each) * each + kGather;
  }

  // Whether every reader takes a fresh tensor for a value that lies otherwise.
  [[nodiscard]] bool may_gather(NodeId root) const {
    return table_.strides(table_.meta(root)).empty() || strided_reader(root).empty();
  }

  // Who does not.
  [[nodiscard]] Reason strided_reader(NodeId root) const {
    std::vector<NodeId> names{root};
    for (size_t i = 0; i < names.size(); ++i) {
      for (const NodeId user : table_.users(names[i])) {
        SPFAST_WORK(1);
        if (layout_.source[user] == names[i]) {
          names.push_back(user);
        } else if (!layouts_.may_read_fresh(user, names[i])) {
          return {Reason::Kind::kStrides, user, names[i], 0, 0};
        }
      }
    }
    return {};
  }

  // Whether somebody under any name of the value needs it full whatever the cut says.
  [[nodiscard]] bool is_read_outside(NodeId root) const {
    const auto uses = uses_of(root);
    std::vector<NodeId> names{root};
    for (size_t i = 0; i < names.size(); ++i) {
      for (const NodeId user : table_.users(names[i])) {
        if (layout_.source[user] == names[i]) {
          names.push_back(user);
          continue;
        }
        SPFAST_WORK(1);
        const auto use = std::lower_bound(uses.begin(), uses.end(), user,
                                          [](const Use& one, NodeId id) { return one.user < id; });
        if (use == uses.end() || use->user != user) return true;
      }
    }
    return false;
  }

  void cut(uint32_t token_class) {
    members_.clear();
    bool any = false;
    for (const NodeId node : rows_of_[token_class]) {
      SPFAST_WORK(1);
      index_[node] = static_cast<uint32_t>(members_.size());
      members_.push_back(node);
      any = any || state_[node] != State::kSharded;
    }
    if (!any) return;
    const auto count = static_cast<uint32_t>(members_.size());
    const uint32_t source = 2 * count;
    const uint32_t sink = source + 1;
    MaxFlow flow(sink + 1);
    const int64_t most = MaxFlow::kUncut / (sink + 1);
    for (uint32_t i = 0; i < count; ++i) {
      const NodeId node = members_[i];
      const bool tuple = table_.meta(node).kind == MetaKind::kTuple;
      if (state_[node] == State::kSharded) flow.add_edge(source, 2 * i, MaxFlow::kUncut);
      if (state_[node] == State::kReduced) flow.add_edge(source, 2 * i, cost(node, most));
      const bool whole = tuple || (state_[node] != State::kSharded && !may_gather(node));
      flow.add_edge(2 * i, 2 * i + 1, whole ? MaxFlow::kUncut : cost(node, most));
      for (const Use& use : uses_of(node)) {
        flow.add_edge(2 * i + 1, 2 * index_[use.user], MaxFlow::kUncut);
        // The parts of a tuple are where the tuple is.
        if (tuple) flow.add_edge(2 * index_[use.user], 2 * i, MaxFlow::kUncut);
      }
      // The parts of a matched site's tuple are gathered, never the tuple.
      const bool parts_alone = tuple && state_[node] == State::kSharded;
      if (!parts_alone && is_read_outside(node)) flow.add_edge(2 * i + 1, sink, MaxFlow::kUncut);
    }
    // Without any cut nothing of what was grown is sharded.
    std::vector<bool> sharded(count, false);
    if (flow.run(source, sink)) {
      const std::vector<bool> side = flow.source_side(sink);
      for (uint32_t i = 0; i < count; ++i) sharded[i] = side[2 * i];
    }
    keep_idle(sharded);
    const uint32_t first = first_sharded(token_class, sharded);
    keep_early(token_class, first, sharded);
    emit(token_class, first, sharded);
  }

  // An all_reduce whose shard nobody would read stays: so does all that only it would feed.
  void keep_idle(std::vector<bool>& sharded) {
    for (auto i = static_cast<uint32_t>(members_.size()); i-- > 0;) {
      if (!sharded[i] || state_[members_[i]] != State::kReduced) continue;
      const auto uses = uses_of(members_[i]);
      sharded[i] = std::any_of(uses.begin(), uses.end(),
                               [&](const Use& use) { return sharded[index_[use.user]]; });
    }
  }

  // The anchor of the earliest all_reduce of the class that becomes a reduce_scatter.
  [[nodiscard]] uint32_t first_sharded(uint32_t token_class,
                                       const std::vector<bool>& sharded) const {
    const auto begins = [&](uint32_t anchor) { return matches_.anchors[anchor].all_reduce; };
    uint32_t first = kNone;
    for (const uint32_t of_class : sites_of_[token_class]) {
      SPFAST_WORK(1);
      const Site& site = sites_.sites[of_class];
      const uint32_t i = index_[matches_.anchors[site.anchor].reduced];
      if (i == kNone || !sharded[i]) continue;
      if (first == kNone || begins(site.anchor) < begins(first)) first = site.anchor;
    }
    return first;
  }

  // How many rows a rank has of symbolic tokens is read from a shard: before the first there is
  // nothing to cut a full value by.
  void keep_early(uint32_t token_class, uint32_t first, std::vector<bool>& sharded) {
    if (!sites_.classes[token_class].tokens.is_expr() || first == kNone) return;
    const NodeId begin = matches_.anchors[first].all_reduce;
    for (uint32_t i = 0; i < members_.size(); ++i) {
      if (state_[members_[i]] != State::kFree) continue;
      const NodeId whole = table_.whole_of(members_[i]);
      if (whole == kNone ? members_[i] < begin : !sharded[index_[whole]]) sharded[i] = false;
    }
  }

  void emit(uint32_t token_class, uint32_t first, const std::vector<bool>& sharded) {
    Site region;
    region.scatters = false;
    region.token_class = token_class;
    region.anchor = first;
    for (uint32_t i = 0; i < members_.size(); ++i) {
      const NodeId node = members_[i];
      if (!sharded[i]) {
        full_[node] = true;
      } else if (first != kNone && state_[node] == State::kFree) {
        region.interior.push_back(node);
        add_operands(region, node);
      }
    }
    if (!region.interior.empty()) regions_.push_back(std::move(region));
  }

  void add_operands(Site& region, NodeId node) {
    if (table_.whole_of(node) != kNone) return;
    for (const RowOperand& operand : reader_.read(node, layout_)) {
      using Kind = SiteOperand::Kind;
      if (operand.role == RowRole::kNone) continue;
      const Kind kind = operand.role == RowRole::kBuffer   ? Kind::kBuffer
                        : operand.role == RowRole::kSame   ? Kind::kSame
                        : operand.role == RowRole::kSpread ? Kind::kSpread
                                                           : Kind::kRows;
      region.operands.push_back(
          {kind, node, operand.name, operand.root, static_cast<uint8_t>(reader_.features())});
    }
  }

  // The class of a node with rows of several is that of its first: where its rows are not worth
  // having in that class, they may be in the next. A second run would find that out.
  bool bar_contested() {
    auto& barred = layout_.barred;
    const size_t before = barred.size();
    for (const NodeId node : contested_) {
      if (full_[node]) barred.emplace_back(node, layout_.token_class[node]);
    }
    std::sort(barred.begin(), barred.end());
    return barred.size() > before;
  }

  void settle_anchors() {
    for (Site& site : sites_.sites) {
      if (site.match != kNone || !site.reason.empty()) continue;
      const NodeId reduced = matches_.anchors[site.anchor].reduced;
      if (full_[reduced]) site.reason = why_kept(reduced);
    }
    for (Site& region : regions_) sites_.sites.push_back(std::move(region));
  }

  [[nodiscard]] Reason why_kept(NodeId reduced) const {
    if (!uses_of(reduced).empty()) return why_no_gain(reduced);
    std::vector<NodeId> names{reduced};
    for (size_t i = 0; i < names.size(); ++i) {
      for (const NodeId user : table_.users(names[i])) {
        SPFAST_WORK(1);
        if (layout_.source[user] != names[i]) {
          const auto known = sites_.not_grown.find(user);
          return known != sites_.not_grown.end()
                     ? known->second
                     : Reason{Reason::Kind::kNeedsAll, user, kNone, 0, 0};
        }
        names.push_back(user);
      }
    }
    return {Reason::Kind::kUnread, reduced, kNone, 0, 0};
  }

  // It may be that what is computed from the value can't be gathered, or that to do so costs more.
  [[nodiscard]] Reason why_no_gain(NodeId reduced) const {
    std::vector<NodeId> reached{reduced};
    std::unordered_set<NodeId> seen{reduced};
    for (size_t i = 0; i < reached.size() && i < kLookedAt; ++i) {
      if (!table_.strides(table_.meta(reached[i])).empty()) {
        if (const Reason why = strided_reader(reached[i]); !why.empty()) return why;
      }
      for (const Use& use : uses_of(reached[i])) {
        if (seen.insert(use.user).second) reached.push_back(use.user);
      }
    }
    return {Reason::Kind::kNoGain, reduced, kNone, 0, 0};
  }

  // Matched sites look through fewer names than the row-wise view does.
  void rename_operands() {
    for (Site& site : sites_.sites) {
      for (SiteOperand& operand : site.operands) {
        if (operand.kind != SiteOperand::Kind::kBuffer) operand.root = layout_.root(operand.root);
      }
    }
  }

  const NodeTable& table_;
  const MatchResult& matches_;
  Sites& sites_;
  RowLayout& layout_;
  RowReader reader_;
  Layouts layouts_;
  std::vector<uint32_t> index_;  // by node: its number among the members of its class
  std::vector<State> state_;
  std::vector<Use> uses_;                        // sorted
  std::vector<bool> full_;                       // by node: row-wise, but computed full
  std::vector<NodeId> contested_;                // could be of another class as well
  std::vector<std::vector<NodeId>> rows_of_;     // by class: its row-wise values
  std::vector<std::vector<uint32_t>> sites_of_;  // by class: its sites that are rewritten
  std::vector<NodeId> members_;
  std::vector<Site> regions_;
};

}  // namespace

bool cut_rows(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
              const Effects& effects, const Replication& replication, Sites& sites,
              bool may_grow_anew) {
  return Cutter(table, rules, matches, effects, replication, sites).run(may_grow_anew);
}

}  // namespace spfast
