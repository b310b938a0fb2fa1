// What an operator object is to the core. Python describes each once; the core keeps the answer.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <unordered_map>

#include "table/argument.h"

namespace spfast::fx {

namespace py = pybind11;

struct TargetEntry {
  TargetId id = kNone;
  uint8_t flags = 0;
  bool wraps = false;  // a higher-order operator that names what it calls in its first argument
};

// Each encoding has one. Operators that live as long as torch are remembered for the whole process,
// others (such as a user's function) only here.
class TargetCache {
 public:
  TargetCache();
  [[nodiscard]] TargetEntry resolve(py::handle target);
  // The operator and the one that it wraps, as one target.
  [[nodiscard]] TargetEntry compound(const TargetEntry& outer, const TargetEntry& inner);

 private:
  TargetEntry describe(py::handle target);

  py::object describe_;
  std::unordered_map<PyObject*, TargetEntry> local_;
  std::map<std::pair<TargetId, TargetId>, TargetEntry> compounds_;
};

}  // namespace spfast::fx
