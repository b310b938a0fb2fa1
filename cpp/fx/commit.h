// Applies a plan to the graph that was encoded: creates, rewires, resizes, erases. All or nothing:
// what is about to change is noted first, and any error takes every step back
// (spfast.fxgraph.journal).
#pragma once

#include <pybind11/pybind11.h>

#include <unordered_map>

#include "fx/encode.h"
#include "rewrite/plan.h"

namespace spfast::fx {

struct CommitValues {
  py::list created;             // meta["val"] of each created node, by index
  py::list resized;             // and of each resized node, by index of its MetaSpec
  py::list described;           // meta["tensor_meta"] of the same nodes; None where there is none
  py::list given = py::list();  // the objects that arguments of new nodes name
};

// The objects that a plan's targets stand for.
using TargetObjects = std::unordered_map<TargetId, py::object>;

// The objects of a plan's targets, of those that are known under these names.
[[nodiscard]] TargetObjects find_targets(const Plan& plan);

// Returns the journal, with which somebody who finds fault with the result can take it back.
py::object commit(py::handle graph, const EncodedGraph& encoded, const Plan& plan,
                  const CommitValues& values, const TargetObjects& targets);

}  // namespace spfast::fx
