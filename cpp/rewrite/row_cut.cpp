#include "rewrite/row_cut.h"

#include <algorithm>
#include <cstdlib>

#include "base/work.h"
#include "rewrite/cut_costs.h"
#include "rewrite/max_flow.h"
#include "rewrite/row_uses.h"

namespace spfast {
namespace {

class Cutter {
 public:
  Cutter(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
         const Effects& effects, const Replication& replication, Sites& sites, Costs costs)
      : table_(table),
        matches_(matches),
        sites_(sites),
        layout_(sites.layout),
        costs_(table, matches, sites, costs),
        reader_(table, rules, effects, replication, sites.classes),
        uses_(table, rules, sites),
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
    kSum,      // over tokens: sharded, if one rank's part is computed and the parts are reduced
  };
  void find_seeds() {
    for (const TokenSum& sum : layout_.sums) state_[sum.node] = State::kSum;
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
      if (state_[node] == State::kSum) rows_of_[layout_.sum_at(node)->token_class].push_back(node);
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
        uses_.add(whole, node);
        continue;
      }
      const auto& operands = reader_.read(node, layout_);
      if (reader_.contested()) contested_.push_back(node);
      for (const RowOperand& operand : operands) {
        // Rows of another class of tokens are gathered and cut anew: no use of the shard.
        if (operand.role == RowRole::kRows && layout_.is_row(operand.root) &&
            layout_.token_class[operand.root] == layout_.token_class[node]) {
          uses_.add(operand.root, node);
        }
      }
    }
    for (const TokenSum& sum : layout_.sums) uses_.add(sum.root, sum.node);
    for (const Site& site : sites_.sites) {
      if (!site.reason.empty()) continue;
      for (const SiteOperand& operand : site.operands) {
        const NodeId root = layout_.root(operand.root);
        if (operand.kind == SiteOperand::Kind::kBuffer) uses_.add_buffer(operand.name);
        if (operand.kind != SiteOperand::Kind::kBuffer && layout_.is_row(root) &&
            layout_.token_class[root] == site.token_class) {
          uses_.add(root, operand.user);
        }
      }
    }
    uses_.sort();
  }

  // What gathering a value moves.
  [[nodiscard]] int64_t bytes_of(NodeId node) {
    const Meta& meta = table_.meta(node);
    if (meta.kind == MetaKind::kUnknown && state_[node] == State::kSharded) {
      // A value of a matched site that nobody had to look at is, as a rule, as large as what was
      // reduced. Whoever needs to know asks.
      unsure_.push_back(node);
      return costs_.bytes_of(
          table_.meta(matches_.anchors[sites_.sites[site_of_[node]].anchor].all_reduce), 1);
    }
    if (meta.kind != MetaKind::kTensor) return CutCosts::kBytes;
    return costs_.bytes_of(meta, layout_.features[node]);
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
    costs_.limit(MaxFlow::kUncut / (2 * static_cast<int64_t>(members_.size()) + 2) / 4);
    find_gathered(token_class);
    unsure_.clear();
    const int64_t fixed = costs_.fixed(token_class, sites_of_[token_class]);
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
  void find_gathered(uint32_t token_class) {
    gathered_.assign(members_.size(), false);
    const auto& sites = sites_of_[token_class];
    for (uint32_t i = 0; i < members_.size(); ++i) {
      // The parts of a matched site's tuple are gathered, never the tuple.
      const bool parts_alone =
          table_.is_tuple(members_[i]) && state_[members_[i]] == State::kSharded;
      const uint32_t own = site_of_[members_[i]];
      const uint32_t site = own != kNone || sites.empty() ? own : sites.front();
      const Anchor anchor = site == kNone ? Anchor{} : matches_.anchors[sites_.sites[site].anchor];
      gathered_[i] = !parts_alone && uses_.is_read_outside(members_[i], anchor);
    }
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
      const Anchor& anchor = matches_.anchors[sites_.sites[i].anchor];
      return spent_[i] <= costs_.bytes_of(anchor) + costs_.calls(anchor, fixed);
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
      const bool few = site.match == kNone && costs_.is_few(anchor);
      const int64_t saved = costs_.bytes_of(anchor) + costs_.calls(anchor, fixed) - (few ? 1 : 0);
      flow.add_edge(saved > 0 ? source : reduced, saved > 0 ? reduced : sink, std::abs(saved));
    }
    for (uint32_t i = 0; i < count; ++i) {
      const NodeId node = members_[i];
      if (state_[node] == State::kSum) {
        const TokenSum& sum = *layout_.sum_at(node);
        flow.add_edge(source, 2 * i, costs_.saved_by(sum));
        flow.add_edge(2 * i, sink, costs_.part(sum, sites_of_[token_class]) + fixed);
        flow.add_edge(2 * i, 2 * index_[sum.root], MaxFlow::kUncut);
        continue;
      }
      const bool tuple = table_.is_tuple(node);
      const bool whole = tuple || (state_[node] != State::kSharded && !uses_.may_gather(node));
      flow.add_edge(2 * i, 2 * i + 1, whole ? MaxFlow::kUncut : bytes_of(node) + fixed);
      for (const RowUses::Use& use : uses_.of(node)) {
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
    int64_t more = 0;
    for (const uint32_t site : sites_of_[token_class]) {
      const Anchor& anchor = matches_.anchors[sites_.sites[site].anchor];
      if (sharded[index_[anchor.reduced]]) more -= costs_.bytes_of(anchor);
    }
    for (uint32_t i = 0; i < members_.size(); ++i) {
      if (!sharded[i] || table_.is_tuple(members_[i]) || state_[members_[i]] == State::kSum)
        continue;
      const auto uses = uses_.of(members_[i]);
      const bool full =
          gathered_[i] || std::any_of(uses.begin(), uses.end(), [&](const RowUses::Use& use) {
            return !sharded[index_[use.user]];
          });
      if (full) more += bytes_of(members_[i]);
    }
    return more > 0;
  }

  // An all_reduce whose shard nobody would read stays: so does all that only it would feed.
  void keep_idle(std::vector<bool>& sharded) {
    for (auto i = static_cast<uint32_t>(members_.size()); i-- > 0;) {
      if (!sharded[i] || state_[members_[i]] != State::kReduced) continue;
      const auto uses = uses_.of(members_[i]);
      sharded[i] = std::any_of(uses.begin(), uses.end(),
                               [&](const RowUses::Use& use) { return sharded[index_[use.user]]; });
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
      const TokenSum* sum = layout_.sum_at(members_[i]);
      if (sum != nullptr) sharded[i] = sharded[i] && sharded[index_[sum->root]];
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
      } else if (first != kNone && (state_[node] == State::kFree || state_[node] == State::kSum)) {
        region.interior.push_back(node);
        add_operands(region, node);
      }
    }
    if (!region.interior.empty()) regions_.push_back(std::move(region));
  }

  void add_operands(Site& region, NodeId node) {
    if (table_.whole_of(node) != kNone) return;
    if (const TokenSum* sum = layout_.sum_at(node)) {
      region.operands.push_back(
          {SiteOperand::Kind::kRows, node, sum->name, sum->root, sum->features});
      return;
    }
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
      if (full_[reduced]) site.reason = uses_.why_kept(reduced);
    }
    for (Site& region : regions_) sites_.sites.push_back(std::move(region));
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
  CutCosts costs_;
  RowReader reader_;
  RowUses uses_;
  std::vector<uint32_t> index_;  // by node: its number among the members of its class
  std::vector<State> state_;
  std::vector<uint32_t> site_of_;                // by node: the site of a matched value
  std::vector<int64_t> spent_;                   // by site: what its gathers cost
  std::vector<bool> gathered_;                   // by member, if it is sharded
  std::vector<NodeId> unsure_;                   // whose size was only guessed
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
