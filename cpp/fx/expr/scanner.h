// Walks the candidates of a pass and stops at matches. Other candidates cost no Python object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "fx/expr/matcher.h"
#include "fx/named_tuple.h"

namespace spfast::expr {

class Scanner {
 public:
  // candidates: nodes in the order in which they are visited. table: op -> target -> the programs
  // registered for it, in order; None for a pattern that has no program. places: the annotations
  // that tell where a node runs, each with what it is taken for where it is missing.
  Scanner(py::list candidates, py::dict table, py::dict places);

  // The next pattern at a node that matches, or that only torch's object can tell: a scan_hit().
  // None at the end. Nodes that were erased meanwhile are passed over.
  [[nodiscard]] py::object advance();

 private:
  enum class Region : uint8_t { kOne, kSeveral, kUnknown };
  // Whether all nodes lie between the same mutations and in one place.
  [[nodiscard]] Region region_of(const std::vector<py::object>& nodes) const;
  [[nodiscard]] bool erased(PyObject* node) const;
  [[nodiscard]] PyObject* programs_at(PyObject* node);

  const fx::NodeAccess& access_;
  py::list candidates_;
  py::dict table_;
  py::dict places_;
  py::str erased_name_;
  std::pair<PyObject*, PyObject*> last_key_;
  PyObject* last_programs_ = nullptr;
  Py_ssize_t position_ = 0;
  Py_ssize_t pattern_ = 0;
};

// What a match holds, as an expr_match().
[[nodiscard]] py::object to_python(const Found& found);

// node, index of the entry, what was found (None: ask torch's object), and whether the nodes are
// known to lie in one region.
[[nodiscard]] const fx::NamedTuple<4>& scan_hit();
// What torch's Match and MatchContext hold, with steps in the place of expressions: targets and
// bindings are pairs of a step and its node's target, or what the step is bound to.
[[nodiscard]] const fx::NamedTuple<5>& expr_match();

}  // namespace spfast::expr
