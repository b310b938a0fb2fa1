#include "rewrite/row_uses.h"

#include <algorithm>
#include <utility>

#include "base/work.h"
#include "match/look_through.h"
#include "rewrite/size_reads.h"

namespace spfast {
namespace {

// How far a value is followed to say why its all_reduce stays. There is a bound, for every
// all_reduce may be asked.
constexpr size_t kLookedAt = 64;

}  // namespace

void RowUses::sort() {
  std::sort(uses_.begin(), uses_.end(), [](const Use& a, const Use& b) {
    return std::pair{a.root, a.user} < std::pair{b.root, b.user};
  });
}

std::span<const RowUses::Use> RowUses::of(NodeId root) const {
  const auto begin = std::lower_bound(uses_.begin(), uses_.end(), root,
                                      [](const Use& use, NodeId node) { return use.root < node; });
  auto end = begin;
  while (end != uses_.end() && end->root == root) ++end;
  return {begin, end};
}

bool RowUses::may_gather(NodeId root) const {
  return table_.strides(table_.meta(root)).empty() || strided_reader(root).empty();
}

// The reader that sees how the value lies; empty where there is none.
Reason RowUses::strided_reader(NodeId root) const {
  std::vector<NodeId> aliases{root};
  for (size_t i = 0; i < aliases.size(); ++i) {
    for (const NodeId user : table_.users(aliases[i])) {
      SPFAST_WORK(1);
      if (layout_.source[user] == aliases[i]) {
        aliases.push_back(user);
      } else if (!layouts_.may_read_fresh(user, aliases[i])) {
        return {Reason::Kind::kStrides, user, aliases[i], 0, 0};
      }
    }
  }
  return {};
}

bool RowUses::is_read_outside(NodeId root, const Anchor& anchor) const {
  const bool tells_sizes = anchor.input != kNone && !layout_.is_row(layout_.root(anchor.input));
  const auto uses = of(root);
  const auto dims = table_.dims(table_.meta(root));
  const int64_t width = dims.empty() || dims.back().is_expr() ? 0 : dims.back().raw;
  std::vector<NodeId> aliases{root};
  for (size_t i = 0; i < aliases.size(); ++i) {
    for (const NodeId user : table_.users(aliases[i])) {
      SPFAST_WORK(1);
      // Matched sites read through more aliases than the row-wise view knows.
      if (layout_.source[user] == aliases[i] ||
          (!layout_.is_row(user) && LookThrough::source(table_, user, width) == aliases[i])) {
        aliases.push_back(user);
        continue;
      }
      if (aliases[i] == root && sites_.leaves_as_rows(user, root)) continue;
      if (tells_sizes && asks_for_size(table_, anchor, user, aliases[i])) continue;
      // A buffer like the value is made anew, like its shard.
      if (buffers_.contains(user)) continue;
      const auto use =
          std::lower_bound(uses.begin(), uses.end(), user,
                           [](const RowUses::Use& one, NodeId id) { return one.user < id; });
      if (use == uses.end() || use->user != user) return true;
    }
  }
  return false;
}

Reason RowUses::why_kept(NodeId reduced) const {
  if (!of(reduced).empty()) return why_no_gain(reduced);
  std::vector<NodeId> aliases{reduced};
  for (size_t i = 0; i < aliases.size(); ++i) {
    for (const NodeId user : table_.users(aliases[i])) {
      SPFAST_WORK(1);
      if (layout_.source[user] != aliases[i]) {
        const auto known = sites_.not_grown.find(user);
        return known != sites_.not_grown.end() ? known->second
                                               : Reason{Reason::Kind::kNeedsAll, user, kNone, 0, 0};
      }
      aliases.push_back(user);
    }
  }
  return {Reason::Kind::kUnread, reduced, kNone, 0, 0};
}

// Either what is computed from the value cannot be gathered, or to gather it costs more.
Reason RowUses::why_no_gain(NodeId reduced) const {
  std::vector<NodeId> reached{reduced};
  std::unordered_set<NodeId> seen{reduced};
  for (size_t i = 0; i < reached.size() && i < kLookedAt; ++i) {
    if (!table_.strides(table_.meta(reached[i])).empty()) {
      if (const Reason why = strided_reader(reached[i]); !why.empty()) return why;
    }
    for (const Use& use : of(reached[i])) {
      if (seen.insert(use.user).second) reached.push_back(use.user);
    }
  }
  return {Reason::Kind::kNoGain, reduced, kNone, 0, 0};
}

}  // namespace spfast
