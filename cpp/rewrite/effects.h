// Where the graph writes to memory. A rewrite must not look behind such a place (I8).
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// What calls of other graphs do to the memory of their arguments. A call of which nothing is known
// may do anything.
struct CallEffects {
  std::vector<NodeId> known = {};                       // sorted: calls of which all is known
  std::vector<std::pair<NodeId, NodeId>> written = {};  // sorted: such a call, what it writes to
  std::vector<std::pair<NodeId, NodeId>> shown = {};    // sorted: what its results may share
};

class Effects {
 public:
  explicit Effects(const NodeTable& table, CallEffects calls = {});
  // The first stream change after one node and before another; kNone if there is none.
  [[nodiscard]] NodeId change_between(NodeId first, NodeId last) const;
  // The first node that writes to the storage of this value; kNone if nothing does.
  [[nodiscard]] NodeId writer_of(NodeId value) const;
  // Whether a value is made after everything that writes to its storage.
  [[nodiscard]] bool is_made_last(NodeId value) const;
  // The first node but the value itself that writes there before a reader; kNone if there is none.
  [[nodiscard]] NodeId writer_before(NodeId value, NodeId reader) const;
  // A value that stands for the storage of this one, if anything writes there; else kNone.
  [[nodiscard]] NodeId written_storage(NodeId value) const;
  // The storages that a node may write to, each once.
  [[nodiscard]] std::vector<NodeId> storages_written_by(NodeId node) const;
  // Whether all is known of the graph that a node calls.
  [[nodiscard]] bool is_known_call(NodeId node) const;
  [[nodiscard]] bool any_writes() const { return !written_.empty(); }
  // Whether anything writes to the storage of a value, but for calls of which nothing is known.
  [[nodiscard]] bool is_written(NodeId value) const { return writer_before(value, kNone) != kNone; }

 private:
  void find_bases();
  [[nodiscard]] std::span<const std::pair<NodeId, NodeId>> writers_of(NodeId value) const;
  [[nodiscard]] bool may_write(NodeId node) const;
  template <typename Note>
  void each_written(NodeId node, Note&& note) const;

  const NodeTable& table_;
  CallEffects calls_;
  std::vector<NodeId> base_;  // by node: whose storage it may share; empty if nothing is written to
  std::vector<NodeId> changes_;                     // of the stream, in graph order
  std::vector<std::pair<NodeId, NodeId>> written_;  // base, first writer; sorted by base
};

}  // namespace spfast
