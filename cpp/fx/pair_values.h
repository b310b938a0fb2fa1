// meta["val"] of the nodes that a plan of pairs creates: nearly all are values that are there,
// alone or in tuples. The others spfast.async_tp.values makes, in Python.
#pragma once

#include <pybind11/pybind11.h>

#include "fx/encode.h"
#include "pairs/pair_plan.h"

namespace spfast::fx {

// `make` is called with (form, value, like, dtype, dim, count); values are None where none is
// meant.
[[nodiscard]] py::list make_pair_values(const EncodedGraph& encoded, const PairPlan& plan,
                                        const py::object& make);

}  // namespace spfast::fx
