#include "rewrite/row_cut.h"

#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "base/work.h"
#include "rewrite/layouts.h"
#include "rewrite/max_flow.h"

namespace spfast {
namespace {

// Costs are told for each token, in 1/1024 bytes.
constexpr int64_t kBytes = 1024;
// A smaller stream is an example of larger ones, or a test: it is reckoned as one of 8,192 tokens of
// 4,096 features in two bytes each, a prefill for which the rewrite is worth it.
constexpr int64_t kWorth = int64_t{64} << 20;
// An all_reduce of fewer numbers a token is not worth two collectives that move the same bytes.
constexpr int64_t kFew = 2;

// How far a value is followed to say why its all_reduce stays: a reason is asked for each.
constexpr size_t kLookedAt = 64;

class Cutter {
 public:
  Cutter(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
         const Effects& effects, const Replication& replication, Sites& sites, Costs costs)
      : table_(table),
        matches_(matches),
        sites_(sites),
        layout_(sites.layout),
        costs_(costs),
        reader_(table, rules, effects, replication, sites.classes),
        layouts_(table, &rules),
        index_(table.size(), kNone),
        state_(table.size(), State::kFree),
        site_of_(table.size(), kNone),
        full_(table.size(), false) {}

  bool run(bool may_grow_anew) {
    find_seeds();
    read_uses();
    sort_by_class();
    for (uint32_t one = 0; one < sites_.classes.size(); ++one) {
      if (sites_.classes[one].refused.empty()) cut(one);
    }
    if (!sites_.missing.empty()) return true;
    const bool contested = may_grow_anew && bar_contested();
    const bool gave_way = leave_costly() && may_grow_anew;
    if (contested || gave_way) return false;
    settle_anchors();
    rename_operands();
    return true;
  }

 private:
  enum class State : uint8_t {
    kFree,     // sharded or full, as the cut says
    kSharded,  // a value of a matched site: sharded as a whole, or not at all
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
      const auto index = static_cast<uint32_t>(&site - sites_.sites.data());
      site_of_[matches_.anchors[site.anchor].reduced] = index;
      for (const NodeId node : site.interior) site_of_[node] = index;
    }
  }

  // A graph may have as many classes as sites: each looks at its own alone.
  void sort_by_class() {
    spent_.resize(sites_.sites.size());
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
        if (operand.kind == SiteOperand::Kind::kBuffer) buffers_.insert(operand.name);
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

  // What gathering a value moves. At most `most_`, so that all costs together stay below what is
  // never cut.
  [[nodiscard]] int64_t bytes_of(NodeId node) {
    const Meta& meta = table_.meta(node);
    if (meta.kind == MetaKind::kUnknown && state_[node] == State::kSharded) {
      // A value of a matched site that nobody had to look at is, as a rule, as large as what was
      // reduced. Whoever needs to know asks.
      unsure_.push_back(node);
      return bytes_of_meta(
          table_.meta(matches_.anchors[sites_.sites[site_of_[node]].anchor].all_reduce), 1);
    }
    if (meta.kind != MetaKind::kTensor) return kBytes;
    return bytes_of_meta(meta, layout_.features[node]);
  }

  [[nodiscard]] int64_t bytes_of_meta(const Meta& meta, size_t features) const {
    const int64_t elements = element_count(table_.dims(meta).last(features));
    if (elements < 0) return kBytes;  // of a width that is not known
    const int64_t each = dtype_bytes(table_.string(meta.dtype)) * kBytes;
    return std::min(elements, most_ / each) * each;
  }

  // What an all_reduce that stays moves more than its reduce_scatter would.
  [[nodiscard]] int64_t bytes_of(const Anchor& anchor) const {
    return bytes_of_meta(table_.meta(anchor.all_reduce), 1);
  }

  [[nodiscard]] bool is_few(const Anchor& anchor) const {
    const int64_t elements = element_count(table_.dims(table_.meta(anchor.all_reduce)).last(1));
    return elements >= 0 && elements < kFew;
  }

  // What a collective costs beside its bytes, as each token's share of it.
  [[nodiscard]] int64_t fixed_cost(uint32_t token_class) const {
    int64_t width = 1;
    for (const uint32_t site : sites_of_[token_class]) {
      width = std::max(width, bytes_of(matches_.anchors[sites_.sites[site].anchor]) / kBytes);
    }
    const Dim tokens = sites_.classes[token_class].tokens;
    const int64_t sharers = std::max({kWorth / width, tokens.is_expr() ? 1 : tokens.raw, int64_t{1}});
    const double share = static_cast<double>(costs_.collective) / static_cast<double>(sharers);
    const double most = static_cast<double>(most_ / kBytes);
    return static_cast<int64_t>(std::min(share, most) * static_cast<double>(kBytes));
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
    const auto dims = table_.dims(table_.meta(root));
    const int64_t width = dims.empty() || dims.back().is_expr() ? 0 : dims.back().raw;
    std::vector<NodeId> names{root};
    for (size_t i = 0; i < names.size(); ++i) {
      for (const NodeId user : table_.users(names[i])) {
        SPFAST_WORK(1);
        // Matched sites read through more names than the row-wise view knows.
        if (layout_.source[user] == names[i] ||
            (!layout_.is_row(user) && LookThrough::source(table_, user, width) == names[i])) {
          names.push_back(user);
          continue;
        }
        // A buffer like the value is made anew, like its shard.
        if (buffers_.contains(user)) continue;
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
    if (members_.empty()) return;
    most_ = MaxFlow::kUncut / (2 * static_cast<int64_t>(members_.size()) + 2) / 4;
    find_gathered();
    unsure_.clear();
    const int64_t fixed = fixed_cost(token_class);
    if (!any && each_site_pays(token_class, fixed)) return;
    unsure_.clear();
    std::vector<bool> sharded = cheapest(token_class, fixed);
    if (!unsure_.empty()) {
      sites_.missing.insert(sites_.missing.end(), unsure_.begin(), unsure_.end());
      return;
    }
    // Fewer collectives, but more bytes: of the cuts with the fewest bytes, the one with the fewest
    // collectives then.
    if (moves_more(token_class, sharded)) sharded = cheapest(token_class, 1);
    keep_idle(sharded);
    const uint32_t first = first_sharded(token_class, sharded);
    keep_early(token_class, first, sharded);
    emit(token_class, first, sharded);
  }

  // Whether each member is gathered if it is sharded, whatever the cut says.
  void find_gathered() {
    gathered_.assign(members_.size(), false);
    for (uint32_t i = 0; i < members_.size(); ++i) {
      // The parts of a matched site's tuple are gathered, never the tuple.
      const bool parts_alone = is_tuple(members_[i]) && state_[members_[i]] == State::kSharded;
      gathered_[i] = !parts_alone && is_read_outside(members_[i]);
    }
  }

  [[nodiscard]] bool is_tuple(NodeId node) const {
    return table_.meta(node).kind == MetaKind::kTuple;
  }

  // Where each matched site by itself costs no more than its all_reduce, nothing is cheaper than
  // all of them.
  [[nodiscard]] bool each_site_pays(uint32_t token_class, int64_t fixed) {
    for (const uint32_t i : sites_of_[token_class]) spent_[i] = 0;
    for (uint32_t i = 0; i < members_.size(); ++i) {
      if (gathered_[i]) spent_[site_of_[members_[i]]] += bytes_of(members_[i]) + fixed;
    }
    const auto& sites = sites_of_[token_class];
    return std::all_of(sites.begin(), sites.end(), [&](uint32_t i) {
      return spent_[i] <= bytes_of(matches_.anchors[sites_.sites[i].anchor]) + fixed;
    });
  }

  // By member: whether it is sharded in the cheapest cut; of several, the one with the most shards.
  [[nodiscard]] std::vector<bool> cheapest(uint32_t token_class, int64_t fixed) {
    const auto count = static_cast<uint32_t>(members_.size());
    const uint32_t source = 2 * count;
    const uint32_t sink = source + 1;
    MaxFlow flow(sink + 1);
    for (const uint32_t of_class : sites_of_[token_class]) {
      const Site& site = sites_.sites[of_class];
      const Anchor& anchor = matches_.anchors[site.anchor];
      const uint32_t reduced = 2 * index_[anchor.reduced];
      // What is matched is sharded as a whole or not at all.
      for (const NodeId node : site.interior) {
        flow.add_edge(reduced, 2 * index_[node], MaxFlow::kUncut);
        flow.add_edge(2 * index_[node], reduced, MaxFlow::kUncut);
      }
      const bool few = site.match == kNone && is_few(anchor);
      flow.add_edge(source, reduced, bytes_of(anchor) + fixed - (few ? 1 : 0));
    }
    for (uint32_t i = 0; i < count; ++i) {
      const NodeId node = members_[i];
      const bool tuple = is_tuple(node);
      const bool whole = tuple || (state_[node] != State::kSharded && !may_gather(node));
      flow.add_edge(2 * i, 2 * i + 1, whole ? MaxFlow::kUncut : bytes_of(node) + fixed);
      for (const Use& use : uses_of(node)) {
        flow.add_edge(2 * i + 1, 2 * index_[use.user], MaxFlow::kUncut);
        // The parts of a tuple are where the tuple is.
        if (tuple) flow.add_edge(2 * index_[use.user], 2 * i, MaxFlow::kUncut);
      }
      if (gathered_[i]) flow.add_edge(2 * i + 1, sink, MaxFlow::kUncut);
    }
    // Without any cut nothing is sharded.
    std::vector<bool> sharded(count, false);
    if (!flow.run(source, sink)) return sharded;
    const std::vector<bool> side = flow.source_side(sink);
    for (uint32_t i = 0; i < count; ++i) sharded[i] = side[2 * i];
    return sharded;
  }

  // Whether what would be gathered is more than what the all_reduces move beside their
  // reduce_scatters.
  [[nodiscard]] bool moves_more(uint32_t token_class, const std::vector<bool>& sharded) {
    int64_t before = 0;
    int64_t after = 0;
    for (const uint32_t of_class : sites_of_[token_class]) {
      const Site& site = sites_.sites[of_class];
      const Anchor& anchor = matches_.anchors[site.anchor];
      if (sharded[index_[anchor.reduced]]) before += bytes_of(anchor);
    }
    for (uint32_t i = 0; i < members_.size(); ++i) {
      if (!sharded[i] || is_tuple(members_[i])) continue;
      const auto uses = uses_of(members_[i]);
      const bool full = gathered_[i] || std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
                          return !sharded[index_[use.user]];
                        });
      if (full) after += bytes_of(members_[i]);
    }
    return after > before;
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
    const auto begins = [&](uint32_t anchor) { return matches_.anchors[anchor].reduced; };
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
    const NodeId begin = matches_.anchors[first].reduced;
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

  // Matched sites that would cost more than their all_reduces do.
  bool leave_costly() {
    bool any = false;
    for (Site& site : sites_.sites) {
      if (site.match == kNone || !site.reason.empty()) continue;
      if (!full_[matches_.anchors[site.anchor].reduced]) continue;
      site.reason = {Reason::Kind::kNoGain, matches_.anchors[site.anchor].reduced, kNone, 0, 0};
      any = true;
    }
    return any;
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
  Costs costs_;
  RowReader reader_;
  Layouts layouts_;
  std::vector<uint32_t> index_;  // by node: its number among the members of its class
  std::vector<State> state_;
  std::vector<uint32_t> site_of_;                // by node: the site of a matched value
  std::vector<int64_t> spent_;                   // by site: what its gathers cost
  int64_t most_ = 0;                             // that a single cost may be
  std::vector<bool> gathered_;                   // by member, if it is sharded
  std::vector<NodeId> unsure_;                   // whose size was only guessed
  std::unordered_set<NodeId> buffers_;           // that matched sites fill
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
              const Effects& effects, const Replication& replication, Sites& sites, Costs costs,
              bool may_grow_anew) {
  return Cutter(table, rules, matches, effects, replication, sites, costs).run(may_grow_anew);
}

}  // namespace spfast
