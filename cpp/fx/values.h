// Makes meta["val"] of the nodes that a plan creates or resizes. The first value of each kind is
// made by spfast.fxgraph.meta, in Python; those that are like it are clones of it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "rewrite/plan.h"

namespace spfast::fx {

namespace py = pybind11;

// What a value has to be: a MetaSpec whose node is there.
struct ValueSpec {
  MetaSpec::Form form = MetaSpec::Form::kLocal;
  py::object like;
  uint32_t token_class = 0;
  int64_t factor = 1;
  // Values of the same kind differ only in their storage, mode and device. -1: the kind is not
  // known.
  int64_t kind = -1;
};

struct ValueSpecs {
  std::vector<ValueSpec> created;
  std::vector<ValueSpec> resized;
};

struct Values {
  py::list created;
  py::list resized;
  py::list strided;    // places of those whose strides are only guessed; resized ones count on
  py::list described;  // what tensor_meta of the resized ones becomes; None for a node without
};

// `maker` is spfast.fxgraph.meta's.
[[nodiscard]] Values make_values(const py::object& maker, const ValueSpecs& specs);

}  // namespace spfast::fx
