// Patterns as spfast.patterns.stored keeps them: tables of rows in which equal parts are written
// once. Read here without an object of Python's for each part.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "pattern/pattern.h"

namespace spfast {

namespace py = pybind11;

class StoredPatterns {
 public:
  // Rows by the name of their class. Raises UserError where they do not fit together.
  explicit StoredPatterns(const py::dict& tables);

  // The pattern in this row.
  [[nodiscard]] Pattern pattern(py::handle index) const;

 private:
  std::vector<Operation> operations_;
  std::vector<std::pair<std::string, Role>> parameters_;
  std::vector<py::handle> patterns_;  // rows, of the tables that the caller holds
};

}  // namespace spfast
