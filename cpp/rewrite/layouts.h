// How values lie in memory, and which readers see that. A gathered value is a fresh tensor: it has
// the usual strides, whatever strides the old value had.
#pragma once

#include <vector>

#include "rewrite/rowwise_rules.h"
#include "table/node_table.h"

namespace spfast {

class Layouts {
 public:
  // `rules` may be null: then only the operators count that the core itself relies on.
  Layouts(const NodeTable& table, const RowRules* rules);
  // Whether strides are those of a fresh tensor. Those of dims of size 1 do not matter.
  [[nodiscard]] bool is_dense(const Meta& meta) const;
  // Whether the reader's result stays the same, strides included, if it reads a fresh tensor in
  // place of a value. `alias` is the view or copy of the value that it reads.
  [[nodiscard]] bool may_read_fresh(NodeId reader, NodeId alias) const;

 private:
  [[nodiscard]] bool sees_strides(NodeId reader) const;
  [[nodiscard]] bool descends(const Meta& meta) const;

  const NodeTable& table_;
  const RowRules* rules_;
  std::vector<TargetId> products_;  // matrix products, sorted: their results are fresh tensors
};

}  // namespace spfast
