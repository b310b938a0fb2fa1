// Where a symbolic size is known in the graph: what a gathered value is given its dims back from.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// Where a size is read: a node that is a number, or a dim of a node that is a tensor.
struct SizeSource {
  NodeId node = kNone;
  uint32_t dim = kNone;  // kNone: the node is the number
};

class SizeSources {
 public:
  explicit SizeSources(const NodeTable& table) : table_(table) {}
  // The first source of a size before a node; absent if there is none. Only values that are full
  // whatever is rewritten count: the inputs of the graph, and numbers.
  [[nodiscard]] std::optional<SizeSource> find(Dim size, NodeId before);
  // Adds the nodes whose meta has to be read before anything can be found.
  void want(std::vector<NodeId>& missing) const;

 private:
  void index();

  const NodeTable& table_;
  bool indexed_ = false;
  std::map<uint32_t, SizeSource> sources_;  // by expression
};

}  // namespace spfast
