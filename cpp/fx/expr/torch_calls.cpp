#include "fx/expr/torch_calls.h"

#include <unordered_map>
#include <vector>

namespace spfast::expr {
namespace {

struct Torch {
  py::object immutable_list;
  py::object immutable_dict;
  py::object is_leaf;
  py::object extract_target;
  py::object normalize_function;
  py::object tensor;
  py::object known_true;
  std::unordered_map<PyObject*, bool> leaf_types;
  std::vector<py::object> known_types;  // keeps the keys above alive

  Torch() {
    const auto collections = py::module_::import("torch.fx.immutable_collections");
    immutable_list = collections.attr("immutable_list");
    immutable_dict = collections.attr("immutable_dict");
    is_leaf = py::module_::import("torch.utils._pytree").attr("tree_is_leaf");
    extract_target = py::module_::import("torch._inductor.pattern_matcher").attr("extract_target");
    normalize_function =
        py::module_::import("torch.fx.operator_schemas").attr("normalize_function");
    tensor = py::module_::import("torch").attr("Tensor");
    known_true =
        py::module_::import("torch.fx.experimental.symbolic_shapes").attr("statically_known_true");
  }
};

Torch& torch() {
  // Kept for the life of the process: Python's types may be gone before static destructors run.
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Torch*> storage;
  return *storage.call_once_and_store_result([] { return new Torch; }).get_stored();
}

bool is_call_module(const py::object& op) {
  return PyUnicode_CompareWithASCIIString(op.ptr(), "call_module") == 0;
}

}  // namespace

Container container_of(PyObject* value) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(value));
  if (PyTuple_CheckExact(value) || PyList_CheckExact(value) ||
      type == torch().immutable_list.ptr()) {
    return Container::kSequence;
  }
  if (PyDict_CheckExact(value) || type == torch().immutable_dict.ptr()) return Container::kMapping;
  return Container::kOther;
}

bool is_equal_to_itself_alone(PyObject* value) {
  return Py_TYPE(value)->tp_richcompare == PyBaseObject_Type.tp_richcompare;
}

bool is_leaf(PyObject* value) {
  Torch& calls = torch();
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(value));
  const auto known = calls.leaf_types.find(type);
  if (known != calls.leaf_types.end()) return known->second;
  const bool leaf = calls.is_leaf(py::handle(value)).cast<bool>();
  calls.known_types.push_back(py::reinterpret_borrow<py::object>(type));
  calls.leaf_types.emplace(type, leaf);
  return leaf;
}

py::object target_of(const fx::NodeAccess& access, PyObject* node, const py::object& op) {
  if (is_call_module(op)) return torch().extract_target(py::handle(node));
  return access.read(node, fx::Field::kTarget);
}

bool has_meta(const fx::NodeAccess& access, PyObject* node, const py::object& wanted) {
  const py::dict meta = access.read(node, fx::Field::kMeta);
  PyObject* found = PyDict_GetItemString(meta.ptr(), "val");
  if (found == nullptr) found = PyDict_GetItemString(meta.ptr(), "example_value");
  const py::handle value(found);
  if (!value || !py::isinstance(value, torch().tensor)) return false;
  const py::tuple parts = wanted;
  const py::tuple sizes = parts[0];
  const py::object dtype = value.attr("dtype");
  const py::object device = value.attr("device");
  if (!dtype.equal(py::object(parts[1])) || !device.equal(py::object(parts[2]))) return false;
  const py::tuple shape = value.attr("shape");
  if (shape.size() != sizes.size()) return false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const py::object have = shape[i];
    const py::object want = sizes[i];
    if (PyLong_CheckExact(have.ptr()) && PyLong_CheckExact(want.ptr())) {
      if (!have.equal(want)) return false;
      continue;
    }
    const auto same =
        py::reinterpret_steal<py::object>(PyObject_RichCompare(have.ptr(), want.ptr(), Py_EQ));
    if (!same) throw py::error_already_set();
    if (!torch().known_true(same).cast<bool>()) return false;
  }
  return true;
}

bool normalise(const fx::NodeAccess& access, PyObject* node, py::object& args, py::object& kwargs) {
  const py::object target = access.read(node, fx::Field::kTarget);
  const py::object result = torch().normalize_function(target, args, kwargs);
  if (result.is_none()) return false;
  args = result.attr("args");
  kwargs = result.attr("kwargs");
  return true;
}

}  // namespace spfast::expr
