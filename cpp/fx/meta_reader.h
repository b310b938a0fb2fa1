// Reads meta["val"] of nodes into a table: sizes, dtypes, and what symbolic sizes are, by
// expression.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fx/node_access.h"
#include "table/node_table.h"

namespace spfast::fx {

namespace py = pybind11;

class MetaReader {
 public:
  // With `layout`, devices are read too.
  explicit MetaReader(bool layout);
  void read(NodeTable& table, NodeId id, py::handle node);
  // Only if the node is a number: whether an input is one tells sizes from what a rank holds.
  void read_number(NodeTable& table, NodeId id, py::handle node);
  // The meta of all of `wanted` that is not read yet; `nodes` by id.
  void read_all(NodeTable& table, std::span<const NodeId> wanted,
                const std::vector<py::object>& nodes);
  // What the expressions of the table are, by expression id: one SymInt each.
  [[nodiscard]] const std::vector<py::object>& symbols() const { return symbols_; }
  // Interns the expression of a SymInt.
  [[nodiscard]] Dim dim_of(NodeTable& table, py::handle size);

 private:
  [[nodiscard]] bool is_number(py::handle value) const;
  uint32_t read_value(NodeTable& table, py::handle value);
  uint32_t read_tensor(NodeTable& table, py::handle tensor);
  uint32_t read_tuple(NodeTable& table, py::handle values);
  [[nodiscard]] Dim tokens_of(NodeTable& table, py::handle sizes, const std::vector<Dim>& dims);
  template <typename SizeAt>
  [[nodiscard]] Dim product(NodeTable& table, const SizeAt& size_at, std::span<const Dim> dims,
                            size_t first, bool at_least_one);
  [[nodiscard]] bool is_contiguous(NodeTable& table, py::handle sizes, const std::vector<Dim>& dims,
                                   const std::vector<Dim>& strides);
  uint32_t text_of(NodeTable& table, py::handle object);

  bool layout_;
  py::object tensor_type_;
  py::object symint_type_;
  py::str val_ = interned("val");
  py::str shape_ = interned("shape");
  py::str dtype_ = interned("dtype");
  py::str device_ = interned("device");
  py::str stride_ = interned("stride");
  py::str node_ = interned("node");
  py::str own_expr_ = interned("_expr");
  py::dict exprs_;                                                  // sympy expression -> raw dim
  std::unordered_map<PyObject*, std::pair<py::object, Dim>> seen_;  // the same by address
  std::vector<py::object> symbols_;
  std::unordered_map<PyObject*, uint32_t> texts_;  // of dtypes, which torch never frees
  // Parts of tuples, which getitem nodes share. The graph keeps them alive while it is read.
  std::unordered_map<PyObject*, uint32_t> parts_;
  std::vector<Dim> dims_;     // of the tensor that is being read
  std::vector<Dim> strides_;  // likewise
  std::map<std::vector<int64_t>, Dim> products_;
};

}  // namespace spfast::fx
