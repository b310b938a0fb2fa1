// Readers that only ask for a size of a value. What was reduced has the same size, so nothing is
// gathered for them.
#pragma once

#include "match/match.h"
#include "table/node_table.h"

namespace spfast {

// Whether the user asks for a size of the value under this alias that the anchor's input has as
// well, and stands after that input. Both values' meta has to be known.
[[nodiscard]] bool asks_for_size(const NodeTable& table, const Anchor& anchor, NodeId user,
                                 NodeId alias);

}  // namespace spfast
