// bind/: the Python module, one file a topic.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace spfast {

namespace py = pybind11;

void bind_errors(py::module_& module);
void bind_rules(py::module_& module);
void bind_table(py::module_& module);
void bind_job(py::module_& module);
void bind_expr(py::module_& module);
void bind_editor(py::module_& module);

// Raises an exception of spfast.errors by its name.
[[noreturn]] void raise_error(const char* type, const std::string& message);

}  // namespace spfast
