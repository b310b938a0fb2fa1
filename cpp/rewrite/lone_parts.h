// Parts of rows of which nobody reads the rest. A rank that takes some features of what all ranks
// share, to multiply them by its rows of a weight, says which by literals of its own.
#pragma once

#include <vector>

#include "table/operators.h"

namespace spfast {

// Adds those whose metas tell whether a node, which takes a part by such means, takes all.
void list_sized(const NodeTable& table, NodeId node, PartBy by, std::vector<NodeId>& out);

// Sorted: operators that take a part of their operand along another dim than the first, where not
// all parts of it are taken. The metas that `list_sized` adds are there.
[[nodiscard]] std::vector<NodeId> find_lone_parts(const NodeTable& table, TraitsCache& traits);

}  // namespace spfast
