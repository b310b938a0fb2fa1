// The editor of graphs, bound for its trial and its tests.
#include "bind/bind.h"
#include "fx/graph_editor.h"

namespace spfast {
namespace {

fx::GraphEditor::Way way_of(const std::string& way) {
  if (way == "native") return fx::GraphEditor::Way::kNative;
  if (way == "methods") return fx::GraphEditor::Way::kMethods;
  return fx::GraphEditor::Way::kFastest;
}

}  // namespace

void bind_editor(py::module_& module) {
  using fx::GraphEditor;
  py::class_<GraphEditor>(module, "GraphEditor", "Edits of one graph, natively or by FX.")
      .def(py::init([](const py::object& graph, const std::string& way) {
             return std::make_unique<GraphEditor>(graph, way_of(way));
           }),
           py::arg("graph"), py::arg("way") = "fastest")
      .def(
          "create",
          [](GraphEditor& self, const py::object& target, const py::str& base,
             const py::object& before) { return self.create_call(target, base, before); },
          py::arg("target"), py::arg("base"), py::arg("before"))
      .def(
          "set_operands",
          [](const GraphEditor& self, const py::object& node, const py::tuple& args,
             const py::dict& kwargs) { self.set_operands(node, args, kwargs); },
          py::arg("node"), py::arg("args"), py::arg("kwargs"))
      .def(
          "replace_input",
          [](const GraphEditor& self, const py::object& user, const py::object& old,
             const py::object& now) { self.replace_input(user, old, now); },
          py::arg("user"), py::arg("old"), py::arg("now"))
      .def(
          "erase", [](GraphEditor& self, const py::object& node) { self.erase(node); },
          py::arg("node"))
      .def("finish", &GraphEditor::finish)
      .def("native", &GraphEditor::native);
  module.def("break_after", &GraphEditor::break_after, py::arg("edits"));
}

}  // namespace spfast
