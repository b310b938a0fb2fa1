// pairs/: collectives and the matrix products beside them, found on the table and planned as one
// operator each. Depends on base/, table/ and rewrite/.
//
// The graph as the pairs that were planned so far leave it: which nodes are gone, which were
// replaced, and where each stands. A node keeps its id when a new node takes its place.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "rewrite/meta_source.h"
#include "rewrite/plan.h"
#include "table/node_table.h"

namespace spfast {

class LiveGraph {
 public:
  LiveGraph(NodeTable& table, MetaSource& source);

  [[nodiscard]] const NodeTable& table() const { return table_; }
  void read_ahead(std::span<const NodeId> wanted) { source_.read_metas(table_, wanted); }
  void read_names() { source_.read_names(table_); }
  [[nodiscard]] uint32_t text(std::string_view text) { return table_.intern_string(text); }

  // --- values: sizes and dtype stay the same, whichever node yields the value now ----------
  // Returns a copy, for reading one meta may move those that were read before.
  [[nodiscard]] Meta meta(NodeId node);
  [[nodiscard]] bool is_tensor(NodeId node) { return meta(node).kind == MetaKind::kTensor; }
  [[nodiscard]] std::vector<Dim> dims(NodeId node);
  [[nodiscard]] size_t rank(NodeId node) { return meta(node).dims.count; }
  [[nodiscard]] Dim last_dim(NodeId node) { return dims(node).back(); }
  // The product of all dims but the last; 1 for a vector.
  [[nodiscard]] Dim rows(NodeId node);
  [[nodiscard]] std::string_view dtype(NodeId node);
  [[nodiscard]] int64_t item_bytes(NodeId node);
  // Whether the elements lie one after the other; dims of size 1 may have any stride.
  [[nodiscard]] bool is_row_major(NodeId node);
  // Whether a shape has at most one symbolic size, so that a view can leave it out.
  [[nodiscard]] bool can_list(NodeId node);

  // --- what nodes are -----------------------------------------------------------------------
  // kNone for a node that is no call, or that was replaced.
  [[nodiscard]] TargetId target(NodeId node) const;
  [[nodiscard]] bool is_view(NodeId node) const;      // the same elements in another shape
  [[nodiscard]] bool is_identity(NodeId node) const;  // what its first argument holds
  [[nodiscard]] bool is_bit_view(NodeId node);        // the same bytes as another dtype, as wide
  [[nodiscard]] bool is_cast(NodeId node);            // rounds to another dtype, nothing else
  [[nodiscard]] NodeId first_operand(NodeId node) const;  // kNone: its first argument is no node
  // An argument by its place or its name; absent where it is not given.
  [[nodiscard]] Argument argument(NodeId node, size_t place, std::string_view name) const;
  [[nodiscard]] int64_t int_argument(NodeId node, size_t place, std::string_view name,
                                     int64_t missing) const;  // kNoInt where it is no number
  static constexpr int64_t kNoInt = INT64_MIN;

  // --- who reads what -------------------------------------------------------------------------
  [[nodiscard]] std::vector<NodeId> users(NodeId node) const;
  // Counts new nodes that read it, too.
  [[nodiscard]] size_t reader_count(NodeId node) const;
  [[nodiscard]] NodeId only_reader(NodeId node) const;  // kNone: none, several, or a new node
  // Where the first of the new nodes that read it stands; the end where none does.
  [[nodiscard]] uint64_t first_new_reader(NodeId node) const;

  // --- order ----------------------------------------------------------------------------------
  [[nodiscard]] uint64_t place(NodeId node) const { return places_[node]; }
  [[nodiscard]] bool is_before(NodeId a, NodeId b) const { return places_[a] < places_[b]; }
  [[nodiscard]] bool was_moved(NodeId node) const { return places_[node] % kStep != 0; }

  // --- what a pair changes --------------------------------------------------------------------
  [[nodiscard]] bool is_gone(NodeId node) const { return gone_[node]; }
  [[nodiscard]] bool is_replaced(NodeId node) const { return stands_for_.contains(node); }
  [[nodiscard]] NodeRef now(NodeId node) const;
  void replace(NodeId node, NodeRef now, NodeId before);
  // Replaced by a product that an operator computes together with a gather.
  void note_fused(NodeId product) { fused_.insert(product); }
  [[nodiscard]] bool is_fused(NodeId node) const { return fused_.contains(node); }
  void erase(NodeId node) { gone_[node] = true; }
  void move(NodeId node, NodeId before) { places_[node] = place_before(before); }
  void add_reader(NodeId node, NodeId before) { readers_[node].push_back(place(before)); }

 private:
  static constexpr uint64_t kStep = uint64_t{1} << 24;
  [[nodiscard]] uint64_t place_before(NodeId before);

  NodeTable& table_;
  MetaSource& source_;
  std::vector<bool> gone_;
  std::vector<uint64_t> places_;
  std::unordered_map<NodeId, uint64_t> placed_before_;  // how many
  std::unordered_map<NodeId, NodeRef> stands_for_;
  std::unordered_set<NodeId> fused_;
  std::unordered_map<NodeId, std::vector<uint64_t>> readers_;  // places of new nodes
};

}  // namespace spfast
