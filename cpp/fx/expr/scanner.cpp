#include "fx/expr/scanner.h"

#include <algorithm>

#include "fx/expr/torch_calls.h"

namespace spfast::expr {
namespace {

PyObject* item(PyObject* dict, const char* key) { return PyDict_GetItemString(dict, key); }

}  // namespace

Scanner::Scanner(py::list candidates, py::dict table, py::dict places)
    : access_(fx::NodeAccess::instance()),
      candidates_(std::move(candidates)),
      table_(std::move(table)),
      places_(std::move(places)),
      erased_name_("_erased") {}

Scanner::Region Scanner::region_of(const std::vector<py::object>& nodes) const {
  PyObject* region = nullptr;
  std::vector<PyObject*> first;
  bool several = nodes.empty();
  for (const py::object& node : nodes) {
    const py::object meta = access_.read(node, fx::Field::kMeta);
    if (!PyDict_Check(meta.ptr())) return Region::kUnknown;
    PyObject* own_region = item(meta.ptr(), "mutation_region_id");
    if (own_region == nullptr) return Region::kUnknown;
    PyObject* custom = item(meta.ptr(), "custom");
    if (custom != nullptr && !PyDict_Check(custom)) return Region::kUnknown;
    std::vector<PyObject*> place;
    for (const auto& [key, fallback] : places_) {
      PyObject* own = custom == nullptr ? nullptr : PyDict_GetItemWithError(custom, key.ptr());
      place.push_back(own == nullptr ? fallback.ptr() : own);
    }
    if (region == nullptr) {
      region = own_region;
      first = place;
    }
    several = several || !equal(region, own_region) ||
              !std::equal(place.begin(), place.end(), first.begin(), equal);
  }
  return several ? Region::kSeveral : Region::kOne;
}

bool Scanner::erased(PyObject* node) const {
  const auto value = py::reinterpret_steal<py::object>(PyObject_GetAttr(node, erased_name_.ptr()));
  if (!value) throw py::error_already_set();
  return value.ptr() == Py_True;
}

PyObject* Scanner::programs_at(PyObject* node) {
  const py::object op = access_.read(node, fx::Field::kOp);
  const py::object target = target_of(access_, node, op);
  const std::pair<PyObject*, PyObject*> key{op.ptr(), target.ptr()};
  if (key == last_key_) return last_programs_;
  PyObject* by_target = PyDict_GetItemWithError(table_.ptr(), op.ptr());
  if (by_target == nullptr) return nullptr;
  PyObject* programs = PyDict_GetItemWithError(by_target, target.ptr());
  // Candidates of one target follow each other, so the last look-up is kept. The table keeps its
  // targets alive.
  if (programs != nullptr && is_equal_to_itself_alone(target.ptr())) {
    last_key_ = key;
    last_programs_ = programs;
  }
  return programs;
}

py::object Scanner::advance() {
  for (; position_ < PyList_GET_SIZE(candidates_.ptr()); ++position_, pattern_ = 0) {
    PyObject* node = PyList_GET_ITEM(candidates_.ptr(), position_);
    if (erased(node)) continue;
    PyObject* programs = programs_at(node);
    if (programs == nullptr) continue;
    while (pattern_ < PyList_GET_SIZE(programs)) {
      const Py_ssize_t index = pattern_++;
      const py::handle entry = PyList_GET_ITEM(programs, index);
      if (entry.is_none()) return scan_hit().make(py::handle(node), index, py::none(), false);
      const auto& program = entry.cast<const Program&>();
      Matcher matcher(program);
      switch (matcher.run(node)) {
        case Outcome::kNo:
        case Outcome::kAbort:
          continue;
        case Outcome::kUnknown:
          return scan_hit().make(py::handle(node), index, py::none(), false);
        case Outcome::kYes:
          break;
      }
      const Region region = region_of(matcher.found().nodes);
      if (region == Region::kSeveral) continue;
      return scan_hit().make(py::handle(node), index, to_python(matcher.found()),
                             region == Region::kOne);
    }
  }
  return py::none();
}

py::object to_python(const Found& found) {
  py::list args;
  for (const py::object& arg : found.args) args.append(arg);
  py::dict kwargs;
  for (const auto& [name, value] : found.kwargs) kwargs[name] = value;
  py::list nodes;
  for (const py::object& node : found.nodes) nodes.append(node);
  py::list targets;
  for (const auto& [step, target] : found.targets) targets.append(py::make_tuple(step, target));
  py::list bindings;  // pairs, since None is a value that may be bound
  for (size_t i = 0; i < found.bound.size(); ++i) {
    if (found.bound[i]) bindings.append(py::make_tuple(i, found.bound[i]));
  }
  return expr_match().make(args, kwargs, nodes, targets, bindings);
}

const fx::NamedTuple<4>& scan_hit() {
  static const auto& type = *new fx::NamedTuple<4>("spfast._core.ScanHit", "Where a scan stopped.",
                                                   {"node", "entry", "found", "one_region"});
  return type;
}

const fx::NamedTuple<5>& expr_match() {
  static const auto& type =
      *new fx::NamedTuple<5>("spfast._core.ExprMatch", "What an expression was found to be.",
                             {"args", "kwargs", "nodes", "targets", "bindings"});
  return type;
}

}  // namespace spfast::expr
