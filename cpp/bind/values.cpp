// What the values of a plan have to be, and what they are.
#include "fx/values.h"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <set>

#include "bind/bind.h"

namespace spfast {
namespace {

void bind_forms(py::module_& module) {
  using Form = MetaSpec::Form;
  py::native_enum<Form>(module, "Form", "enum.IntEnum", "What a value is, seen from its node.")
      .value("LOCAL", Form::kLocal)
      .value("GATHERED", Form::kGathered)
      .value("FLAT", Form::kFlat)
      .value("SAME", Form::kSame)
      .value("LOCAL_SIZE", Form::kLocalSize)
      .value("SCALED", Form::kScaled)
      .value("DIM_SIZE", Form::kDimSize)
      .value("LOCAL_BYTES", Form::kLocalBytes)
      .value("GATHERED_BYTES", Form::kGatheredBytes)
      .value("ONE", Form::kOne)
      .value("OWN", Form::kOwn)
      .value("SPREAD", Form::kSpread)
      .value("FRESH", Form::kFresh)
      .value("PART", Form::kPart)
      .value("TOTAL", Form::kTotal)
      .value("PADDED", Form::kPadded)
      .value("CUT", Form::kCut)
      .value("TOKENS", Form::kTokens)
      .value("MISSING", Form::kMissing)
      .finalize();
}

// The classes of tokens of which padded values are made.
std::set<uint32_t> padded_classes(const fx::ValueSpecs& specs) {
  std::set<uint32_t> found;
  for (const fx::ValueSpec& one : specs.created) {
    if (one.form == MetaSpec::Form::kPadded) found.insert(one.token_class);
  }
  return found;
}

py::list resized_nodes(const fx::ValueSpecs& specs) {
  py::list nodes;
  for (const fx::ValueSpec& one : specs.resized) nodes.append(one.like);
  return nodes;
}

}  // namespace

void bind_values(py::module_& module) {
  bind_forms(module);
  py::class_<fx::ValueSpec>(module, "ValueSpec",
                            "What one value has to be. Values of the same kind differ in their "
                            "storage alone; -1: not known.")
      .def(py::init<MetaSpec::Form, py::object, uint32_t, int64_t, int64_t>(), py::arg("form"),
           py::arg("like"), py::arg("token_class") = 0, py::arg("factor") = 1,
           py::arg("kind") = -1);
  py::class_<fx::ValueSpecs>(module, "ValueSpecs",
                             "What the values of the created and of the resized nodes have to be.")
      .def(py::init<std::vector<fx::ValueSpec>, std::vector<fx::ValueSpec>>(), py::arg("created"),
           py::arg("resized") = std::vector<fx::ValueSpec>())
      .def("padded_classes", &padded_classes)
      .def("resized_nodes", &resized_nodes);
  py::class_<fx::Values>(module, "Values",
                         "The values, the places of those whose strides are only guessed, and "
                         "what tensor_meta of the resized nodes becomes.")
      .def(py::init<>())
      .def_readonly("created", &fx::Values::created)
      .def_readonly("resized", &fx::Values::resized)
      .def_readonly("strided", &fx::Values::strided)
      .def_readonly("described", &fx::Values::described);
  module.def("make_values", &fx::make_values, py::arg("maker"), py::arg("specs"));
}

}  // namespace spfast
