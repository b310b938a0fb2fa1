// Parts of rows that are taken without the rest. A rank may take some features of what all ranks
// share, to multiply them by its rows of a weight. Its literals then say which, and differ from the
// other ranks'.
#pragma once

#include <functional>
#include <vector>

#include "table/traits_cache.h"

namespace spfast {

// Adds those whose metas tell whether a node, which takes a part by such means, takes all.
void list_sized(const NodeTable& table, NodeId node, PartBy by, std::vector<NodeId>& out);

// Whether a node is among those that are asked about.
using Reached = std::function<bool(NodeId)>;

// Sorted: of the nodes that are reached, those that take a part of their operand along another dim
// than the first, where these do not take all of it. The metas that `list_sized` adds are there.
[[nodiscard]] std::vector<NodeId> find_lone_parts(const NodeTable& table, TraitsCache& traits,
                                                  const Reached& reached);

}  // namespace spfast
