// Where a symbolic size is known in the graph: what a gathered value is given its dims back from.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// The number that the node is, or a size of the tensor that it is.
struct SizeSource {
  NodeId node = kNone;
  uint32_t dim = kNone;  // kNone: the node is the number
};

class SizeSources {
 public:
  explicit SizeSources(const NodeTable& table) : table_(table) {}
  // Of values that are full whatever is rewritten: the inputs of the graph, and numbers. The first
  // that stands before the node; absent where there is none.
  [[nodiscard]] std::optional<SizeSource> find(Dim size, NodeId before);
  // Nodes whose meta has to be known before anything is found.
  void want(std::vector<NodeId>& missing) const;

 private:
  void index();

  const NodeTable& table_;
  bool indexed_ = false;
  std::map<uint32_t, SizeSource> sources_;  // by expression
};

}  // namespace spfast
