// Reads the linked list of a torch.fx graph once into a NodeTable.
#pragma once

#include <pybind11/pybind11.h>

#include <span>
#include <vector>

#include "fx/meta_reader.h"
#include "table/node_table.h"

namespace spfast::fx {

namespace py = pybind11;

struct EncodeOptions {
  // Reads names, the targets of inputs, and every meta, as a file holds them. Otherwise only the
  // structure is read, and the meta of calls to the targets of `meta_of`.
  bool complete = false;
  std::span<const TargetId> meta_of;
  // Calls whose writes nobody else can see.
  std::span<const py::object> pure;
};

struct EncodedGraph {
  explicit EncodedGraph(bool complete) : metas(complete) {}
  NodeTable table;
  std::vector<py::object> nodes;  // by id
  std::vector<NodeId> pure;       // the calls that were said to be
  MetaReader metas;
  bool named = false;

  [[nodiscard]] py::object name(NodeId id) const;
  // Names are read from Python only when somebody wants to print something.
  void read_names();
};

// Raises UserError when the graph is none or a node reads one that is not in it.
[[nodiscard]] EncodedGraph encode(py::handle graph, const EncodeOptions& options);

}  // namespace spfast::fx
