#include "base/check.h"
#include "bind/bind.h"

namespace spfast {
namespace {

void set_error(const char* type, const char* message) {
  const py::object cls = py::module_::import("spfast.errors").attr(type);
  PyErr_SetString(cls.ptr(), message);
}

}  // namespace

void raise_error(const char* type, const std::string& message) {
  set_error(type, message.c_str());
  throw py::error_already_set();
}

// What the core throws, as what Python catches. More special types first.
void bind_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const FileFormatError& error) {
      set_error("FileFormatError", error.what());
    } catch (const UserError& error) {
      set_error("GraphError", error.what());
    } catch (const InternalError& error) {
      set_error("InternalError", error.what());
    }
  });
}

}  // namespace spfast
