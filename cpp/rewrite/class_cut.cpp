#include "rewrite/class_cut.h"

#include <algorithm>
#include <cstdlib>

#include "base/work.h"
#include "rewrite/max_flow.h"

namespace spfast {

bool ClassCut::run(uint32_t token_class, std::span<const NodeId> members,
                   std::span<const uint32_t> sites) {
  token_class_ = token_class;
  members_ = members;
  of_class_ = sites;
  unsure_.clear();
  costly_.clear();
  if (members_.empty()) return false;
  bool any = false;
  for (uint32_t i = 0; i < members_.size(); ++i) {
    SPFAST_WORK(1);
    nodes_.index[members_[i]] = i;
    any = any || nodes_.state[members_[i]] != State::kSharded;
  }
  costs_.limit(MaxFlow::kUncut / (2 * static_cast<int64_t>(members_.size()) + 2) / 4);
  find_gathered();
  const int64_t fixed = costs_.fixed(token_class, of_class_);
  const bool pays = !any && each_site_pays(fixed);
  unsure_.clear();
  if (pays) return false;
  Cut best = cheapest(fixed);
  if (!unsure_.empty()) return true;
  find_costly(fixed, best.cost);
  // This cut has fewer collectives but moves more bytes. Bytes count first.
  if (moves_more(best.sharded)) best = cheapest(1);
  sharded_ = std::move(best.sharded);
  keep_idle();
  return true;
}

// Whether each member is gathered if it is sharded, whatever the cut says.
void ClassCut::find_gathered() {
  gathered_.assign(members_.size(), false);
  for (uint32_t i = 0; i < members_.size(); ++i) {
    // The parts of a matched site's tuple are gathered, never the tuple.
    const bool parts_alone =
        table_.is_tuple(members_[i]) && nodes_.state[members_[i]] == State::kSharded;
    const uint32_t own = nodes_.site_of[members_[i]];
    const uint32_t site = own != kNone || of_class_.empty() ? own : of_class_.front();
    const Anchor anchor = site == kNone ? Anchor{} : matches_.anchors[sites_.sites[site].anchor];
    gathered_[i] = !parts_alone && uses_.is_read_outside(members_[i], anchor);
  }
}

// What gathering a value moves.
int64_t ClassCut::bytes_of(NodeId node) {
  const Meta& meta = table_.meta(node);
  if (meta.kind == MetaKind::kUnknown && nodes_.state[node] == State::kSharded) {
    // The meta of a matched site's value may not have been read. Such a value is usually as large
    // as what was reduced, so that is guessed; whoever needs to be sure has it read.
    unsure_.push_back(node);
    const Anchor& anchor = matches_.anchors[sites_.sites[nodes_.site_of[node]].anchor];
    return costs_.bytes_of(anchor);
  }
  if (meta.kind != MetaKind::kTensor) return CutCosts::kBytes;
  return costs_.bytes_of(meta, layout_.features[node]);
}

// Whether each matched site costs no more than its all_reduce. Then sharding all of them is
// cheapest.
bool ClassCut::each_site_pays(int64_t fixed) {
  spent_.resize(sites_.sites.size());
  for (const uint32_t i : of_class_) spent_[i] = 0;
  for (uint32_t i = 0; i < members_.size(); ++i) {
    if (gathered_[i]) spent_[nodes_.site_of[members_[i]]] += bytes_of(members_[i]) + fixed;
  }
  return std::all_of(of_class_.begin(), of_class_.end(), [&](uint32_t site) {
    const Anchor& anchor = matches_.anchors[sites_.sites[site].anchor];
    return spent_[site] <= costs_.bytes_of(anchor) + costs_.calls(anchor, fixed);
  });
}

// By member: whether it is sharded in the cheapest cut; of several, the one with the most shards.
// A loose site may be sharded in part; they are sorted.
ClassCut::Cut ClassCut::cheapest(int64_t fixed, std::span<const uint32_t> loose) {
  const auto count = static_cast<uint32_t>(members_.size());
  const uint32_t source = 2 * count;
  const uint32_t sink = source + 1;
  const auto& index = nodes_.index;
  MaxFlow flow(sink + 1);
  for (const uint32_t of_class : of_class_) {
    const Site& site = sites_.sites[of_class];
    const Anchor& anchor = matches_.anchors[site.anchor];
    const uint32_t reduced = 2 * index[anchor.reduced];
    // What is matched is sharded as a whole or not at all; of a loose site, the parts of a tuple.
    const bool is_loose = std::binary_search(loose.begin(), loose.end(), of_class);
    for (const NodeId node : site.interior) {
      const NodeId whole = is_loose ? table_.whole_of(node) : anchor.reduced;
      if (whole == kNone) continue;
      flow.add_edge(2 * index[whole], 2 * index[node], MaxFlow::kUncut);
      flow.add_edge(2 * index[node], 2 * index[whole], MaxFlow::kUncut);
    }
    const int few = site.match == kNone && costs_.is_few(anchor) ? 1 : 0;
    const int64_t saved = costs_.bytes_of(anchor) + costs_.calls(anchor, fixed) - few;
    flow.add_edge(saved > 0 ? source : reduced, saved > 0 ? reduced : sink, std::abs(saved));
  }
  for (uint32_t i = 0; i < count; ++i) {
    const NodeId node = members_[i];
    const State state = nodes_.state[node];
    if (state == State::kSum) {
      const TokenSum& sum = *layout_.sum_at(node);
      // A value that is gathered anyway may be summed in full at no cost.
      const int64_t saved = gathered_[index[sum.root]] ? 0 : costs_.saved_by(sum);
      flow.add_edge(source, 2 * i, saved);
      flow.add_edge(2 * i, sink, costs_.part(sum, of_class_) + fixed);
      flow.add_edge(2 * i, 2 * index[sum.root], MaxFlow::kUncut);
      continue;
    }
    const bool tuple = table_.is_tuple(node);
    const bool whole = tuple || (state != State::kSharded && !uses_.may_gather(node));
    flow.add_edge(2 * i, 2 * i + 1, whole ? MaxFlow::kUncut : bytes_of(node) + fixed);
    for (const RowUses::Use& use : uses_.of(node)) {
      flow.add_edge(2 * i + 1, 2 * index[use.user], MaxFlow::kUncut);
      // The parts of a tuple are where the tuple is.
      if (tuple) flow.add_edge(2 * index[use.user], 2 * i, MaxFlow::kUncut);
    }
    if (gathered_[i]) flow.add_edge(2 * i + 1, sink, MaxFlow::kUncut);
  }
  // Without any cut nothing is sharded.
  Cut cut{std::vector<bool>(count, false), MaxFlow::kUncut};
  if (!flow.run(source, sink)) return cut;
  cut.cost = flow.cost(sink);
  const std::vector<bool> side = flow.source_side(sink);
  for (uint32_t i = 0; i < count; ++i) cut.sharded[i] = side[2 * i];
  return cut;
}

// The matched sites that may be cheaper in part: the row-wise view knows all of their operators,
// and a value of them is full anyway or is read by something outside.
std::vector<uint32_t> ClassCut::loose_sites() const {
  const auto may_be_full = [&](NodeId node) {
    const auto uses = uses_.of(node);
    return (gathered_[nodes_.index[node]] && !uses.empty()) ||
           std::any_of(uses.begin(), uses.end(), [&](const RowUses::Use& use) {
             return nodes_.state[use.user] == State::kFree;
           });
  };
  const auto is_row_wise = [&](NodeId node) {
    return table_.whole_of(node) != kNone || rules_.find(table_.target(node)) != nullptr;
  };
  std::vector<uint32_t> loose;
  for (const uint32_t of_class : of_class_) {
    const Site& site = sites_.sites[of_class];
    if (site.match == kNone) continue;
    const auto& interior = site.interior;
    const bool any_full = may_be_full(matches_.anchors[site.anchor].reduced) ||
                          std::any_of(interior.begin(), interior.end(), may_be_full);
    if (any_full && std::all_of(interior.begin(), interior.end(), is_row_wise)) {
      loose.push_back(of_class);
    }
  }
  return loose;
}

void ClassCut::find_costly(int64_t fixed, int64_t cost) {
  const std::vector<uint32_t> loose = loose_sites();
  if (loose.empty()) return;
  const Cut cut = cheapest(fixed, loose);
  if (cut.cost >= cost) return;
  for (const uint32_t site : loose) {
    const Site& one = sites_.sites[site];
    const auto sharded = [&](NodeId node) { return cut.sharded[nodes_.index[node]]; };
    const bool reduced = sharded(matches_.anchors[one.anchor].reduced);
    const bool whole = std::all_of(one.interior.begin(), one.interior.end(),
                                   [&](NodeId node) { return sharded(node) == reduced; });
    if (!whole) costly_.push_back(site);
  }
}

// Whether what would be gathered is more than what the all_reduces move beside their
// reduce_scatters.
bool ClassCut::moves_more(const std::vector<bool>& sharded) {
  int64_t more = 0;
  for (const uint32_t site : of_class_) {
    const Anchor& anchor = matches_.anchors[sites_.sites[site].anchor];
    if (sharded[nodes_.index[anchor.reduced]]) more -= costs_.bytes_of(anchor);
  }
  for (uint32_t i = 0; i < members_.size(); ++i) {
    const bool sum = nodes_.state[members_[i]] == State::kSum;
    if (!sharded[i] || sum || table_.is_tuple(members_[i])) continue;
    const auto uses = uses_.of(members_[i]);
    const bool full =
        gathered_[i] || std::any_of(uses.begin(), uses.end(), [&](const RowUses::Use& use) {
          return !sharded[nodes_.index[use.user]];
        });
    if (full) more += bytes_of(members_[i]);
  }
  return more > 0;
}

// An all_reduce stays whose shard nobody would read. So does all that only this shard would feed.
void ClassCut::keep_idle() {
  for (auto i = static_cast<uint32_t>(members_.size()); i-- > 0;) {
    if (!sharded_[i] || nodes_.state[members_[i]] != State::kReduced) continue;
    const auto uses = uses_.of(members_[i]);
    sharded_[i] = std::any_of(uses.begin(), uses.end(), [&](const RowUses::Use& use) {
      return sharded_[nodes_.index[use.user]];
    });
  }
}

}  // namespace spfast
