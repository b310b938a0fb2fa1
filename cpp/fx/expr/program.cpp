#include "fx/expr/program.h"

#include <pybind11/stl.h>

#include <string>

#include "base/check.h"

namespace spfast::expr {
namespace {

Kind kind_of(const std::string& name) {
  if (name == "arg") return Kind::kArg;
  if (name == "keyword") return Kind::kKeyword;
  if (name == "exclusive") return Kind::kExclusive;
  if (name == "ignored") return Kind::kIgnored;
  if (name == "call") return Kind::kCall;
  if (name == "varargs") return Kind::kVarArgs;
  if (name == "list") return Kind::kList;
  if (name == "outputs") return Kind::kOutputs;
  if (name == "dims") return Kind::kDims;
  if (name == "get_attr") return Kind::kGetAttr;
  SPFAST_CHECK(name == "repeated");
  return Kind::kRepeated;
}

std::vector<py::object> objects(const py::handle& items) {
  std::vector<py::object> found;
  for (const py::handle item : items) found.push_back(py::reinterpret_borrow<py::object>(item));
  return found;
}

void read_target(const py::dict& from, Step& step) {
  step.op = from["op"];
  step.targets = objects(from["targets"]);
  step.target_set =
      py::reinterpret_steal<py::object>(PyFrozenSet_New(py::object(from["targets"]).ptr()));
  if (!step.target_set) throw py::error_already_set();
  step.users = from["users"].cast<int64_t>();
}

// A nest is None (a leaf), an int (a sequence of so many) or a tuple (a mapping's keys).
Nest nest_of(const py::handle& lowered) {
  if (lowered.is_none()) return {};
  if (PyLong_Check(lowered.ptr())) return {Nest::Kind::kSequence, lowered.cast<uint32_t>(), {}};
  return {Nest::Kind::kMapping, 0, objects(lowered)};
}

void read_arguments(const py::dict& from, Step& step) {
  step.positional = from["positional"].cast<uint32_t>();
  step.keys = objects(from["keys"]);
  for (const py::handle nest : from["nests"]) step.nests.push_back(nest_of(nest));
  // An item is (step, None) or (-1, literal).
  for (const py::handle handle : from["items"]) {
    const auto pair = py::reinterpret_borrow<py::tuple>(handle);
    step.items.push_back({pair[0].cast<int32_t>(), py::object(pair[1])});
  }
}

}  // namespace

Program::Program(const py::list& lowered, int32_t root) : root_(root) {
  for (const py::handle handle : lowered) {
    const auto from = py::reinterpret_borrow<py::dict>(handle);
    Step step;
    step.kind = kind_of(from["kind"].cast<std::string>());
    switch (step.kind) {
      case Kind::kArg:
      case Kind::kIgnored:
        break;
      case Kind::kKeyword:
      case Kind::kExclusive:
        step.name = from["name"];
        break;
      case Kind::kCall:
        read_target(from, step);
        read_arguments(from, step);
        if (from.contains("undeclared")) step.undeclared = from["undeclared"];
        if (from.contains("meta")) step.meta = from["meta"];
        break;
      case Kind::kDims:
        step.dims = from["dims"].cast<std::vector<int64_t>>();
        step.rank = from["rank"].cast<int64_t>();
        break;
      case Kind::kGetAttr:
        step.users = from["users"].cast<int64_t>();
        step.holds = from["holds"];
        break;
      case Kind::kVarArgs:
        read_target(from, step);
        break;
      case Kind::kList:
        step.inner = from["inner"].cast<int32_t>();
        step.partial = from["partial"].cast<bool>();
        break;
      case Kind::kRepeated:
        step.inner = from["inner"].cast<int32_t>();
        break;
      case Kind::kOutputs:
        for (const py::handle output : from["outputs"]) {
          step.outputs.push_back(output.cast<int32_t>());
        }
        break;
    }
    steps_.push_back(std::move(step));
  }
  SPFAST_CHECK(root >= 0 && static_cast<size_t>(root) < steps_.size());
  const Step& top = steps_[static_cast<size_t>(root)];
  outputs_ = top.kind == Kind::kOutputs ? top.outputs : std::vector<int32_t>{root};
}

}  // namespace spfast::expr
