#include "bind/bind.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native core of spfast.";
  module.attr("version") = SPFAST_VERSION;
  spfast::bind_errors(module);
  spfast::bind_rules(module);
  spfast::bind_table(module);
  spfast::bind_values(module);
  spfast::bind_native_run(module);
  spfast::bind_expr(module);
  spfast::bind_editor(module);
  spfast::bind_pairs(module);
}
