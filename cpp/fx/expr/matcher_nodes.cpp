// What a pattern asks of a node or a value besides how it is called.
#include <algorithm>

#include "fx/expr/matcher.h"

namespace spfast::expr {

using fx::Field;

// Whether a value lists the step's dims; -1 is the last one.
bool are_dims(const Step& step, PyObject* value) {
  if (!PyList_Check(value) && !PyTuple_Check(value)) return false;
  const auto size = static_cast<size_t>(PySequence_Fast_GET_SIZE(value));
  if (size != step.dims.size()) return false;
  const int64_t rank = std::max<int64_t>(step.rank, 1);  // a scalar's only dim is 0
  for (size_t i = 0; i < size; ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(value, static_cast<Py_ssize_t>(i));
    if (!PyLong_CheckExact(item)) return false;
    int overflow = 0;
    const int64_t dim = PyLong_AsLongLongAndOverflow(item, &overflow);
    if (overflow != 0 || dim < -rank || dim >= rank) return false;
    if ((dim < 0 ? dim + rank : dim) != step.dims[i]) return false;
  }
  return true;
}

bool Matcher::has_undeclared(const Step& step, PyObject* node) const {
  const py::object kwargs = access_.read(node, Field::kKwargs);
  if (!PyDict_Check(kwargs.ptr())) return step.undeclared(py::handle(node)).cast<bool>();
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(kwargs.ptr(), &position, &key, &value) != 0) {
    const bool named = std::any_of(step.keys.begin(), step.keys.end(),
                                   [key](const py::object& own) { return equal(key, own.ptr()); });
    if (!named) return step.undeclared(py::handle(node)).cast<bool>();
  }
  return false;
}

Outcome Matcher::match_get_attr(int32_t index, PyObject* node, const Context& context) {
  if (!access_.is_node(node)) return Outcome::kNo;
  const py::object op = access_.read(node, Field::kOp);
  if (PyUnicode_CompareWithASCIIString(op.ptr(), "get_attr") != 0) return Outcome::kNo;
  if (!has_users(index, node, context)) return Outcome::kNo;
  if (!program_.step(index).holds(py::handle(node)).cast<bool>()) return Outcome::kNo;
  found_.nodes.push_back(py::reinterpret_borrow<py::object>(node));
  return Outcome::kYes;
}

Outcome Matcher::match_varargs(int32_t index, PyObject* node, Context& context) {
  const Step& step = program_.step(index);
  if (!has_target(step, node) || !has_users(index, node, context)) return Outcome::kNo;
  found_.nodes.push_back(py::reinterpret_borrow<py::object>(node));
  found_.targets.emplace_back(index, access_.read(node, Field::kTarget));
  for (const py::handle arg : access_.read(node, Field::kArgs)) {
    found_.args.push_back(py::reinterpret_borrow<py::object>(arg));
  }
  const py::dict kwargs = access_.read(node, Field::kKwargs);
  for (const auto& [key, value] : kwargs) {
    found_.kwargs.emplace_back(py::reinterpret_borrow<py::object>(key),
                               py::reinterpret_borrow<py::object>(value));
  }
  return Outcome::kYes;
}

}  // namespace spfast::expr
