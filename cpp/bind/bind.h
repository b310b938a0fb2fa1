// bind/: the Python module, one file a topic.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "rewrite/collectives.h"

namespace spfast {

namespace py = pybind11;

void bind_errors(py::module_& module);
void bind_rules(py::module_& module);
void bind_table(py::module_& module);
void bind_values(py::module_& module);
void bind_native_run(py::module_& module);
void bind_expr(py::module_& module);
void bind_editor(py::module_& module);
void bind_pairs(py::module_& module);

// The arguments of a collective as spfast.patterns spells them.
[[nodiscard]] std::vector<CollectiveArg> read_collective_args(py::handle from);

// Raises an exception of spfast.errors by its name.
[[noreturn]] void raise_error(const char* type, const std::string& message);

}  // namespace spfast
