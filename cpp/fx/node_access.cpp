#include "fx/node_access.h"

#include <structmember.h>

namespace spfast::fx {
namespace {

constexpr std::array<const char*, kFieldCount> kNames = {
    "op", "target", "_args", "_kwargs", "name", "_next", "_prev", "meta", "users"};

// The offset of a C member that holds an object; -1 where the attribute is anything else.
Py_ssize_t member_offset(py::handle type, const char* name) {
  const py::object found = py::getattr(type, name, py::none());
  if (Py_TYPE(found.ptr()) != &PyMemberDescr_Type) return -1;
  const PyMemberDef* member = reinterpret_cast<PyMemberDescrObject*>(found.ptr())->d_member;
  const bool is_object = member->type == T_OBJECT || member->type == T_OBJECT_EX;
  return is_object ? member->offset : -1;
}

}  // namespace

NodeAccess::NodeAccess() {
  const py::module_ fx = py::module_::import("torch.fx");
  node_type_ = fx.attr("Node");
  graph_type_ = fx.attr("Graph");
  for (size_t i = 0; i < kFieldCount; ++i) {
    names_[i] = py::reinterpret_steal<py::object>(PyUnicode_InternFromString(kNames[i]));
    offsets_[i] = member_offset(node_type_, kNames[i]);
  }
}

const NodeAccess& NodeAccess::instance() {
  // Kept for the life of the process: Python's types may be gone before static destructors run.
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<NodeAccess*> storage;
  return *storage.call_once_and_store_result([] { return new NodeAccess; }).get_stored();
}

py::object NodeAccess::read(py::handle node, Field field) const {
  const auto i = static_cast<size_t>(field);
  if (offsets_[i] >= 0) {
    auto* value = *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(node.ptr()) + offsets_[i]);
    if (value != nullptr) return py::reinterpret_borrow<py::object>(value);
  }
  return stolen(PyObject_GetAttr(node.ptr(), names_[i].ptr()));
}

}  // namespace spfast::fx
