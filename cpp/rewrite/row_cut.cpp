#include "rewrite/row_cut.h"

#include <algorithm>

#include "base/work.h"
#include "rewrite/class_cut.h"
#include "rewrite/cut_costs.h"
#include "rewrite/row_reader.h"
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
        class_(table, rules, matches, sites, uses_, costs_, nodes_),
        full_(table.size(), false) {
    nodes_.state.assign(table.size(), State::kFree);
    nodes_.site_of.assign(table.size(), kNone);
    nodes_.index.assign(table.size(), kNone);
  }

  bool run(bool may_grow_anew) {
    find_seeds();
    read_uses();
    sort_by_class();
    for (uint32_t one = 0; one < sites_.classes.size(); ++one) {
      if (sites_.classes[one].refused.empty()) cut(one);
    }
    if (!sites_.missing.empty()) return true;
    const bool contested = may_grow_anew && bar_contested();
    const bool gave_way = leave_costly(may_grow_anew) && may_grow_anew;
    if (contested || gave_way) return false;
    settle_anchors();
    rename_operands();
    return true;
  }

 private:
  using State = CutNodes::State;

  void find_seeds() {
    for (const TokenSum& sum : layout_.sums) nodes_.state[sum.node] = State::kSum;
    for (const Site& site : sites_.sites) {
      if (!site.reason.empty()) continue;
      const State state = site.match == kNone ? State::kReduced : State::kSharded;
      nodes_.state[matches_.anchors[site.anchor].reduced] = state;
      for (const NodeId node : site.interior) nodes_.state[node] = State::kSharded;
      const auto index = static_cast<uint32_t>(&site - sites_.sites.data());
      nodes_.site_of[matches_.anchors[site.anchor].reduced] = index;
      for (const NodeId node : site.interior) nodes_.site_of[node] = index;
    }
  }

  // Sorts values and sites by class. A graph may have as many classes as sites. If each class
  // looked at all of them, the work would grow with the square.
  void sort_by_class() {
    rows_of_.resize(sites_.classes.size());
    sites_of_.resize(sites_.classes.size());
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (layout_.is_row(node)) rows_of_[layout_.token_class[node]].push_back(node);
      if (nodes_.state[node] == State::kSum)
        rows_of_[layout_.sum_at(node)->token_class].push_back(node);
    }
    for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
      const Site& site = sites_.sites[i];
      if (site.reason.empty()) sites_of_[site.token_class].push_back(i);
    }
  }

  // Notes who reads which value row by row: grown operators, and matched sites.
  void read_uses() {
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (!layout_.is_row(node) || nodes_.state[node] != State::kFree) continue;
      if (const NodeId whole = table_.whole_of(node); whole != kNone) {
        uses_.add(whole, node);
        continue;
      }
      const auto& operands = reader_.read(node, layout_);
      if (reader_.contested()) contested_.push_back(node);
      for (const RowOperand& operand : operands) {
        // Rows of another token class are gathered, and then cut anew. That does not use the shard.
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
        if (operand.kind == SiteOperand::Kind::kBuffer) uses_.add_buffer(operand.alias);
        if (operand.kind != SiteOperand::Kind::kBuffer && layout_.is_row(root) &&
            layout_.token_class[root] == site.token_class) {
          uses_.add(root, operand.user);
        }
      }
    }
    uses_.sort();
  }

  void cut(uint32_t token_class) {
    if (!class_.run(token_class, rows_of_[token_class], sites_of_[token_class])) return;
    if (!class_.unsure().empty()) {
      sites_.missing.insert(sites_.missing.end(), class_.unsure().begin(), class_.unsure().end());
      return;
    }
    costly_.insert(costly_.end(), class_.costly().begin(), class_.costly().end());
    std::vector<bool>& sharded = class_.sharded();
    const uint32_t first = first_sharded(token_class, sharded);
    keep_early(token_class, first, sharded);
    emit(token_class, first, sharded);
  }

  // The anchor of the earliest all_reduce of the class that becomes a reduce_scatter.
  [[nodiscard]] uint32_t first_sharded(uint32_t token_class,
                                       const std::vector<bool>& sharded) const {
    uint32_t first = kNone;
    for (const uint32_t of_class : sites_of_[token_class]) {
      SPFAST_WORK(1);
      const uint32_t anchor = sites_.sites[of_class].anchor;
      const NodeId begin = matches_.anchors[anchor].reduced;
      if (nodes_.index[begin] == kNone || !sharded[nodes_.index[begin]]) continue;
      if (first == kNone || begin < matches_.anchors[first].reduced) first = anchor;
    }
    return first;
  }

  // Keeps full what comes before the first shard, if the tokens are symbolic. The number of a
  // rank's rows is then read from a shard, so nothing can be cut before there is one.
  void keep_early(uint32_t token_class, uint32_t first, std::vector<bool>& sharded) {
    if (!sites_.classes[token_class].tokens.is_expr() || first == kNone) return;
    const NodeId begin = matches_.anchors[first].reduced;
    const auto& members = rows_of_[token_class];
    for (uint32_t i = 0; i < members.size(); ++i) {
      const TokenSum* sum = layout_.sum_at(members[i]);
      if (sum != nullptr) sharded[i] = sharded[i] && sharded[nodes_.index[sum->root]];
      if (nodes_.state[members[i]] != State::kFree) continue;
      const NodeId whole = table_.whole_of(members[i]);
      if (whole == kNone ? members[i] < begin : !sharded[nodes_.index[whole]]) sharded[i] = false;
    }
  }

  void emit(uint32_t token_class, uint32_t first, const std::vector<bool>& sharded) {
    Site region;
    region.scatters = false;
    region.token_class = token_class;
    region.anchor = first;
    const auto& members = rows_of_[token_class];
    for (uint32_t i = 0; i < members.size(); ++i) {
      const NodeId node = members[i];
      if (!sharded[i]) {
        full_[node] = true;
      } else if (first != kNone &&
                 (nodes_.state[node] == State::kFree || nodes_.state[node] == State::kSum)) {
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
          {SiteOperand::Kind::kRows, node, sum->alias, sum->root, sum->features});
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
          {kind, node, operand.alias, operand.root, static_cast<uint8_t>(reader_.features())});
    }
  }

  // A node that reads rows of several classes belongs to the first of them. If it is better full
  // there, it is barred from that class, so that it can belong to the next. Otherwise a second run
  // of the pass would rewrite more.
  bool bar_contested() {
    auto& barred = layout_.barred;
    const size_t before = barred.size();
    for (const NodeId node : contested_) {
      if (full_[node]) barred.emplace_back(node, layout_.token_class[node]);
    }
    std::sort(barred.begin(), barred.end());
    return barred.size() > before;
  }

  // Leaves matched sites that would cost more than their all_reduces do, or than a part of them.
  bool leave_costly(bool may_grow_anew) {
    bool any = false;
    std::sort(costly_.begin(), costly_.end());
    for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
      Site& site = sites_.sites[i];
      if (site.match == kNone || !site.reason.empty()) continue;
      const bool costly = may_grow_anew && std::binary_search(costly_.begin(), costly_.end(), i);
      if (!costly && !full_[matches_.anchors[site.anchor].reduced]) continue;
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

  // Matched sites look through fewer views than the row-wise view of the graph does. From here on,
  // the root of each operand is the one that the row-wise view found.
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
  CutNodes nodes_;
  ClassCut class_;
  std::vector<uint32_t> costly_;                 // sites that are better sharded in part
  std::vector<bool> full_;                       // by node: row-wise, but computed full
  std::vector<NodeId> contested_;                // could be of another class as well
  std::vector<std::vector<NodeId>> rows_of_;     // by class: its row-wise values
  std::vector<std::vector<uint32_t>> sites_of_;  // by class: its sites that are rewritten
  std::vector<Site> regions_;
};

}  // namespace

bool cut_rows(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
              const Effects& effects, const Replication& replication, Sites& sites, Costs costs,
              bool may_grow_anew) {
  return Cutter(table, rules, matches, effects, replication, sites, costs).run(may_grow_anew);
}

}  // namespace spfast
