// Where the graph writes to memory: what a rewrite must not look behind (I8).
#pragma once

#include <vector>

#include "table/node_table.h"

namespace spfast {

class Effects {
 public:
  explicit Effects(const NodeTable& table);
  // The first stream change after one node and before another; kNone if there is none.
  [[nodiscard]] NodeId change_between(NodeId first, NodeId last) const;
  // The first node that writes to the storage of this value; kNone if nothing does.
  [[nodiscard]] NodeId writer_of(NodeId value) const;

 private:
  void find_bases();
  template <typename Note>
  void each_written(NodeId node, Note&& note) const;

  const NodeTable& table_;
  std::vector<NodeId> base_;  // by node: whose storage it may share; empty if nothing is written to
  std::vector<NodeId> changes_;                     // of the stream, in graph order
  std::vector<std::pair<NodeId, NodeId>> written_;  // base, first writer; sorted by base
};

}  // namespace spfast
