// What the core asks of the graph behind a table.
#pragma once

#include <span>

#include "table/node_table.h"

namespace spfast {

// A table is made without what few runs need. An implementation that reads it from a graph gets
// every question here.
class MetaSource {
 public:
  MetaSource() = default;
  MetaSource(const MetaSource&) = delete;
  MetaSource& operator=(const MetaSource&) = delete;
  virtual ~MetaSource() = default;
  // Sets the meta of each of `wanted` whose kind is kUnknown. A value without any becomes kMissing:
  // nothing is asked twice.
  virtual void read_metas(NodeTable& table, std::span<const NodeId> wanted) = 0;
  // Sets the names of all nodes, which only texts need.
  virtual void read_names(NodeTable& table) = 0;
};

}  // namespace spfast
