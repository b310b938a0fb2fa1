// fx/: reads and edits torch.fx graphs through the CPython API. With bind/ the only room that knows
// Python; it knows no torch header, so one build serves every torch.
//
// The fields of a Node. From torch 2.9 on they are C members of its base class, whose offsets
// Python tells: reading one is a load. Where a field is none, it is an attribute like any other.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace spfast::fx {

namespace py = pybind11;

enum class Field : uint8_t { kOp, kTarget, kArgs, kKwargs, kName, kNext, kPrev, kMeta, kUsers };
inline constexpr size_t kFieldCount = 9;

// A new reference, or the exception that Python has set.
[[nodiscard]] inline py::object stolen(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// A name as Python's own code has it: a dictionary finds it by its address, and compares no text.
[[nodiscard]] inline py::str interned(const char* name) {
  return py::str(stolen(PyUnicode_InternFromString(name)));
}

[[nodiscard]] inline bool has_type(py::handle value, const py::object& type) {
  return PyObject_TypeCheck(value.ptr(), reinterpret_cast<PyTypeObject*>(type.ptr())) != 0;
}

class NodeAccess {
 public:
  // Reads the layout once in a process; torch must be importable.
  [[nodiscard]] static const NodeAccess& instance();
  [[nodiscard]] py::object read(py::handle node, Field field) const;
  // The field where it is a load, borrowed from the node; null where it is not.
  [[nodiscard]] PyObject* peek(PyObject* node, Field field) const {
    const Py_ssize_t offset = offsets_[static_cast<size_t>(field)];
    if (offset < 0) return nullptr;
    return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(node) + offset);
  }
  [[nodiscard]] bool is_node(py::handle value) const { return has_type(value, node_type_); }
  [[nodiscard]] py::handle graph_type() const { return graph_type_; }

 private:
  NodeAccess();

  py::object node_type_;
  py::object graph_type_;
  std::array<py::object, kFieldCount> names_;
  std::array<Py_ssize_t, kFieldCount> offsets_{};  // -1: not a C member
};

}  // namespace spfast::fx
