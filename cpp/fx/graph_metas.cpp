#include "fx/graph_metas.h"

#include "base/check.h"

namespace spfast::fx {

void GraphMetas::read_metas(NodeTable& table, std::span<const NodeId> wanted) {
  SPFAST_CHECK(&table == &graph_.table);
  if (wanted.empty()) return;
  const py::gil_scoped_acquire locked;
  graph_.metas.read_all(table, wanted, graph_.nodes);
}

void GraphMetas::read_names(NodeTable& table) {
  SPFAST_CHECK(&table == &graph_.table);
  const py::gil_scoped_acquire locked;
  graph_.read_names();
}

}  // namespace spfast::fx
