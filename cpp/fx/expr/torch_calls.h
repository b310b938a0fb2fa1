// The few questions that only torch's own Python functions answer, and the container types of FX
// arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "fx/node_access.h"

namespace spfast::expr {

namespace py = pybind11;

enum class Container : uint8_t { kSequence, kMapping, kOther };

// What torch's pattern expressions take a value for: tuples and lists are one, so are dicts.
[[nodiscard]] Container container_of(PyObject* value);
// Whether a value's type leaves == to identity. Operators do, and hashing them takes a Python call.
[[nodiscard]] bool is_equal_to_itself_alone(PyObject* value);
// Whether torch's pytrees take a value as it is; asked once for each type.
[[nodiscard]] bool is_leaf(PyObject* value);
// The node's target; for a module call the module's class.
[[nodiscard]] py::object target_of(const fx::NodeAccess& access, PyObject* node,
                                   const py::object& op);
// Whether the node's value has these sizes, this dtype and this device (a tuple of the three).
[[nodiscard]] bool has_meta(const fx::NodeAccess& access, PyObject* node, const py::object& wanted);
// Fills in what the call leaves to defaults; false if torch cannot.
[[nodiscard]] bool normalise(const fx::NodeAccess& access, PyObject* node, py::object& args,
                             py::object& kwargs);

}  // namespace spfast::expr
