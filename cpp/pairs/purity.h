// Which nodes may be computed at another time than they are.
#pragma once

#include "pairs/live_graph.h"

namespace spfast {

// Whether a node computes from its operands alone and writes nothing, so that its time does not
// matter.
[[nodiscard]] bool is_pure(const LiveGraph& graph, NodeId node);

}  // namespace spfast
