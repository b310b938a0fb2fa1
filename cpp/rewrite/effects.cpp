#include "rewrite/effects.h"

#include <algorithm>

#include "base/work.h"
#include "table/targets.h"

namespace spfast {

Effects::Effects(const NodeTable& table) : table_(table) {
  bool mutates = false;
  for (NodeId node = 0; node < table.size(); ++node) {
    const uint8_t flags = table.flags(node);
    if ((flags & (target_flag::kMutates | target_flag::kFence)) == 0) continue;
    fences_.push_back(node);
    mutates = mutates || (flags & target_flag::kMutates) != 0;
  }
  if (!mutates) return;
  find_bases();
  for (const NodeId node : fences_) {
    if ((table.flags(node) & target_flag::kMutates) == 0) continue;
    const uint32_t writes = target_writes(table.target(node));
    if (writes == kWritesAnything) {
      for (const Value operand : table.operands(node)) {
        if (operand.is_node()) note_write(operand, node);
      }
      continue;
    }
    const auto args = table.args(node);
    for (size_t i = 0; i < args.size() && i < 31; ++i) {
      if ((writes >> i & 1U) != 0) note_write(args[i], node);
    }
    if ((writes & kWritesKeywords) != 0) {
      const auto pairs = table.kwargs(node);
      for (size_t i = 1; i < pairs.size(); i += 2) note_write(pairs[i], node);
    }
  }
  std::stable_sort(written_.begin(), written_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

void Effects::note_write(Value written, NodeId writer) {
  if (written.is_node()) {
    written_.emplace_back(base_[written.payload], writer);
  } else if (is_sequence(written.tag)) {
    for (const Value item : table_.items(written)) {
      if (item.is_node()) written_.emplace_back(base_[item.payload], writer);
    }
  }
}

// Once for the table: a chain of views is as long as a user likes.
void Effects::find_bases() {
  base_.resize(table_.size());
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    const auto args = table_.args(node);
    const bool aliases =
        (table_.flags(node) & target_flag::kAliases) != 0 && !args.empty() && args[0].is_node();
    base_[node] = aliases ? base_[args[0].payload] : node;
  }
}

uint32_t Effects::region(NodeId node) const {
  return static_cast<uint32_t>(std::lower_bound(fences_.begin(), fences_.end(), node) -
                               fences_.begin());
}

NodeId Effects::fence_after(NodeId node) const {
  const auto found = std::upper_bound(fences_.begin(), fences_.end(), node);
  return found == fences_.end() ? kNone : *found;
}

NodeId Effects::writer_of(NodeId value) const {
  if (written_.empty()) return kNone;
  const NodeId storage = base_[value];
  const auto found =
      std::lower_bound(written_.begin(), written_.end(), storage,
                       [](const auto& entry, NodeId wanted) { return entry.first < wanted; });
  return found != written_.end() && found->first == storage ? found->second : kNone;
}

}  // namespace spfast
