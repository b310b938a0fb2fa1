// Results of several parts: tuples whose items have names. Such a tuple costs what a plain one
// does, and Python reads its items by name, or unpacks them.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

namespace spfast::fx {

namespace py = pybind11;

// A type of such tuples, of N items. It is never freed: types live as long as the process.
template <size_t N>
class NamedTuple {
 public:
  // All texts have to be literals: the type points at them. `name` holds the module's as well.
  NamedTuple(const char* name, const char* doc, const std::array<const char*, N>& items) {
    std::array<PyStructSequence_Field, N + 1> fields{};
    for (size_t i = 0; i < N; ++i) fields[i].name = items[i];
    PyStructSequence_Desc description{name, doc, fields.data(), static_cast<int>(N)};
    type_ = PyStructSequence_NewType(&description);
    if (type_ == nullptr) throw py::error_already_set();
  }

  template <typename... Items>
  [[nodiscard]] py::object make(Items&&... items) const {
    static_assert(sizeof...(Items) == N);
    auto made = py::reinterpret_steal<py::object>(PyStructSequence_New(type_));
    if (!made) throw py::error_already_set();
    Py_ssize_t at = 0;
    (PyStructSequence_SetItem(made.ptr(), at++, owned(std::forward<Items>(items))), ...);
    return made;
  }

  [[nodiscard]] py::handle type() const { return reinterpret_cast<PyObject*>(type_); }

 private:
  template <typename Item>
  [[nodiscard]] static PyObject* owned(Item&& item) {
    if constexpr (std::is_base_of_v<py::handle, std::remove_cvref_t<Item>>) {
      return py::handle(item).inc_ref().ptr();
    } else {
      return py::cast(std::forward<Item>(item)).release().ptr();
    }
  }

  PyTypeObject* type_ = nullptr;
};

}  // namespace spfast::fx
