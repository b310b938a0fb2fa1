#include "bind/bind.h"
#include "fx/expr/program.h"
#include "fx/expr/scanner.h"

namespace spfast {
namespace {

// What `yes` makes of a match; False where there is none; None where only torch's object can tell.
template <typename Yes>
py::object run_at(const expr::Program& program, const py::object& node, Yes yes) {
  expr::Matcher matcher(program);
  switch (matcher.run(node)) {
    case expr::Outcome::kYes:
      return yes(matcher.found());
    case expr::Outcome::kNo:
    case expr::Outcome::kAbort:
      return py::bool_(false);
    case expr::Outcome::kUnknown:
      break;
  }
  return py::none();
}

py::object accepts(const expr::Program& program, const py::object& node) {
  return run_at(program, node, [](const expr::Found&) { return py::bool_(true); });
}

py::object match(const expr::Program& program, const py::object& node) {
  return run_at(program, node, expr::to_python);
}

}  // namespace

void bind_expr(py::module_& module) {
  module.attr("ScanHit") = expr::scan_hit().type();
  module.attr("ExprMatch") = expr::expr_match().type();
  py::class_<expr::Program>(module, "ExprProgram")
      .def(py::init<const py::list&, int32_t>(), py::arg("steps"), py::arg("root"))
      .def("__len__", &expr::Program::size)
      .def("accepts", &accepts, py::arg("node"))
      .def("match", &match, py::arg("node"));
  py::class_<expr::Scanner>(module, "ExprScanner")
      .def(py::init<py::list, py::dict, py::dict>(), py::arg("candidates"), py::arg("table"),
           py::arg("places"))
      .def("advance", &expr::Scanner::advance);
}

}  // namespace spfast
