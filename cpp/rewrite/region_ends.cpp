#include "rewrite/region_ends.h"

#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "base/work.h"

namespace spfast {

std::map<uint32_t, Reason> region_ends(const NodeTable& table, const MatchResult& matches,
                                       const Sites& sites) {
  std::map<uint32_t, Reason> ends;
  std::unordered_map<NodeId, uint32_t> anchors;  // by reduced value
  for (const auto& [node, reason] : sites.not_grown) {
    if (reason.kind != Reason::Kind::kBlocks) continue;
    if (anchors.empty()) {
      for (uint32_t i = 0; i < matches.anchors.size(); ++i) {
        anchors.emplace(matches.anchors[i].reduced, i);
      }
    }
    // Back through rows, latest first: of several all_reduces that it is computed from, the last
    // is meant.
    std::priority_queue<NodeId> pending;
    std::unordered_set<NodeId> seen;
    for (NodeId at = node; !anchors.contains(at);) {
      for (const Argument value : table.operands(at)) {
        SPFAST_WORK(1);
        if (!value.is_node()) continue;
        const NodeId root = sites.layout.root(value.payload);
        if (sites.layout.is_row(root) && seen.insert(root).second) pending.push(root);
      }
      if (pending.empty()) break;
      at = pending.top();
      pending.pop();
      if (anchors.contains(at)) ends.try_emplace(anchors.at(at), reason);
    }
  }
  return ends;
}

}  // namespace spfast
