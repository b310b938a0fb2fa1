#include "rewrite/effects.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "base/sorted.h"
#include "base/work.h"
#include "table/targets.h"

namespace spfast {
namespace {

using Pairs = std::vector<std::pair<NodeId, NodeId>>;

// The pairs whose first is a node.
std::span<const Pairs::value_type> pairs_of(const Pairs& pairs, NodeId node) {
  const auto [begin, end] =
      std::equal_range(pairs.begin(), pairs.end(), std::pair{node, kNone},
                       [](const auto& a, const auto& b) { return a.first < b.first; });
  return {begin, end};
}

}  // namespace

Effects::Effects(const NodeTable& table, CallEffects calls)
    : table_(table), calls_(std::move(calls)) {
  std::vector<NodeId> writers;
  for (NodeId node = 0; node < table.size(); ++node) {
    const uint8_t flags = table.flags(node);
    if ((flags & target_flag::kFence) != 0) changes_.push_back(node);
    if (may_write(node)) writers.push_back(node);
  }
  if (writers.empty()) return;
  find_bases();
  for (const NodeId node : writers) {
    each_written(node, [&](NodeId value) { written_.emplace_back(base_[value], node); });
  }
  std::stable_sort(written_.begin(), written_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

bool Effects::is_known_call(NodeId node) const {
  return std::binary_search(calls_.known.begin(), calls_.known.end(), node);
}

bool Effects::may_write(NodeId node) const {
  if (is_known_call(node)) return !pairs_of(calls_.written, node).empty();
  return (table_.flags(node) & target_flag::kMutates) != 0;
}

// Calls `note` with every value that the node may write to.
template <typename Note>
void Effects::each_written(NodeId node, Note&& note) const {
  if (is_known_call(node)) {
    for (const auto& [call, value] : pairs_of(calls_.written, node)) note(value);
    return;
  }
  if ((table_.flags(node) & target_flag::kMutates) == 0) return;
  const auto each_node = [&](std::span<const Argument> values) {
    for (const Argument value : values) {
      if (value.is_node()) note(value.payload);
    }
  };
  const uint32_t writes = target_writes(table_.target(node));
  if (writes == kWritesAnything) {
    each_node(table_.operands(node));
    return;
  }
  const auto note_value = [&](Argument value) {
    if (value.is_node()) note(value.payload);
    if (is_sequence(value.tag)) each_node(table_.items(value));
  };
  const auto args = table_.args(node);
  for (size_t i = 0; i < args.size(); ++i) {
    if ((writes >> std::min(i, kLastWritePosition) & 1U) != 0) note_value(args[i]);
  }
  // An argument that has a position may be given by keyword all the same. The table does not know
  // the keywords of positions, so all of them count.
  const bool by_keyword =
      (writes & ~kWritesKeywords) >> std::min(args.size(), kLastWritePosition + 1) != 0;
  if (!by_keyword && (writes & kWritesKeywords) == 0) return;
  const auto pairs = table_.kwargs(node);
  for (size_t i = 1; i < pairs.size(); i += 2) note_value(pairs[i]);
}

// Finds which nodes may share storage, as disjoint sets. It is done once for the whole table: a
// chain of views may be long, and must not be followed from each of its ends.
void Effects::find_bases() {
  base_.resize(table_.size());
  std::iota(base_.begin(), base_.end(), NodeId{0});
  const auto root = [&](NodeId node) {
    while (base_[node] != node) {
      base_[node] = base_[base_[node]];
      node = base_[node];
    }
    return node;
  };
  for (NodeId node = 0; node < table_.size(); ++node) {
    SPFAST_WORK(1);
    const auto join = [&](NodeId other) { base_[root(node)] = root(other); };
    // An operator that writes usually returns what it wrote to.
    if (!is_known_call(node)) each_written(node, join);
    for (const auto& [call, value] : pairs_of(calls_.shown, node)) join(value);
    if ((table_.flags(node) & target_flag::kAliases) == 0) continue;
    const auto args = table_.args(node);
    if (!args.empty() && args[0].is_node()) {
      join(args[0].payload);
      continue;
    }
    for (const Argument operand : table_.operands(node)) {
      if (operand.is_node()) join(operand.payload);
    }
  }
  for (NodeId node = 0; node < table_.size(); ++node) base_[node] = root(node);
}

NodeId Effects::change_between(NodeId first, NodeId last) const {
  const auto found = std::upper_bound(changes_.begin(), changes_.end(), first);
  return found == changes_.end() || *found >= last ? kNone : *found;
}

std::span<const std::pair<NodeId, NodeId>> Effects::writers_of(NodeId value) const {
  if (written_.empty()) return {};
  return pairs_of(written_, base_[value]);
}

NodeId Effects::writer_of(NodeId value) const {
  const auto writers = writers_of(value);
  return writers.empty() ? kNone : writers.front().second;
}

bool Effects::is_made_last(NodeId value) const {
  const auto writers = writers_of(value);
  return writers.empty() || writers.back().second < value;
}

NodeId Effects::writer_before(NodeId value, NodeId reader) const {
  for (const auto& [storage, writer] : writers_of(value)) {
    SPFAST_WORK(1);
    if (writer >= reader) break;
    if (writer == value) continue;
    // Nothing is known of a called module. It may write, but that is no evidence that it does.
    if (table_.op(writer) != Op::kCallModule || is_known_call(writer)) return writer;
  }
  return kNone;
}

NodeId Effects::written_storage(NodeId value) const {
  return writers_of(value).empty() ? kNone : base_[value];
}

std::vector<NodeId> Effects::storages_written_by(NodeId node) const {
  std::vector<NodeId> found;
  if (written_.empty()) return found;
  each_written(node, [&](NodeId value) { found.push_back(base_[value]); });
  sort_unique(found);
  return found;
}

}  // namespace spfast
