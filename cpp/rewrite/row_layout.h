// Which values could be sharded along tokens beyond what patterns know, and how they lie.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// A dim argument that counts from the front. A shard has other leading dims than the full value, so
// the argument has to change.
struct DimFix {
  NodeId node = kNone;
  uint32_t argument = 0;
  uint32_t rank = 0;  // the dims that it counts
};

// A sum over all tokens of a row-wise value.
struct TokenSum {
  NodeId node = kNone;
  NodeId alias = kNone;  // what it sums, as it reads it
  NodeId root = kNone;
  uint32_t token_class = 0;
  uint32_t anchor = 0;  // an all_reduce that sums over the ranks of the class
  uint8_t features = 1;
};

// By node. A value's last `features` dims belong to one token; all before them are tokens, and a
// shard is [tokens / tp, features...].
struct RowLayout {
  std::vector<uint32_t> token_class;  // kNone: not row-wise
  std::vector<uint8_t> features;      // 1 where nothing else is known
  std::vector<NodeId> source;         // what the node is a view or copy of; kNone: of nothing
  std::vector<NodeId> behind;  // where a chain of views and copies begins; the node itself if none
  std::vector<bool> reshapes;  // views that are created anew with the sizes of a shard
  std::vector<DimFix> dims;    // by node
  std::vector<TokenSum> sums;  // by node
  // Sorted: nodes, and the classes that they must not belong to. A node that reads rows of several
  // token classes belongs to one of them.
  std::vector<std::pair<NodeId, uint32_t>> barred;

  [[nodiscard]] bool active() const { return !source.empty(); }
  [[nodiscard]] bool is_row(NodeId node) const { return active() && token_class[node] != kNone; }
  [[nodiscard]] uint8_t features_of(NodeId node) const { return active() ? features[node] : 1; }
  [[nodiscard]] bool is_barred(NodeId node, uint32_t from) const {
    return std::binary_search(barred.begin(), barred.end(), std::pair{node, from});
  }
  // Null for a node that is no sum over tokens.
  [[nodiscard]] const TokenSum* sum_at(NodeId node) const {
    const auto found =
        std::lower_bound(sums.begin(), sums.end(), node,
                         [](const TokenSum& sum, NodeId wanted) { return sum.node < wanted; });
    return found != sums.end() && found->node == node ? &*found : nullptr;
  }
  [[nodiscard]] NodeId root(NodeId node) const { return active() ? behind[node] : node; }

  // Nodes are added in graph order. So the start of a chain is known before its next link.
  void forget_aliases(uint32_t nodes) {
    source.assign(nodes, kNone);
    behind.resize(nodes);
    std::iota(behind.begin(), behind.end(), NodeId{0});
  }
  void add_alias(NodeId node, NodeId of) {
    source[node] = of;
    behind[node] = behind[of];
  }
};

}  // namespace spfast
