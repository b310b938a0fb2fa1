// Makes meta["val"] of the nodes that a plan creates or resizes. The first value of each kind is
// made by spfast.meta, in Python; those that are like it are clones of it.
#pragma once

#include <pybind11/pybind11.h>

namespace spfast::fx {

namespace py = pybind11;

// `maker` is spfast.meta's; `created` and `resized` hold (form, node, class, factor, alike) of each
// node, where two nodes with the same `alike`, unless it is -1, have values that differ in nothing
// but their storage, mode and device. Returns the values of both, the places of those whose strides
// are only guessed (the resized ones are counted on), and what tensor_meta of the resized ones
// becomes, None where a node has none.
[[nodiscard]] py::tuple make_values(const py::object& maker, const py::list& created,
                                    const py::list& resized);

}  // namespace spfast::fx
