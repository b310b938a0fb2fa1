// Metas that proofs rest on.
#pragma once

#include <vector>

#include "rewrite/sites.h"
#include "table/node_table.h"

namespace spfast {

// The meta of a value. Null where it has to be read first: it goes to `missing` then. Null, too,
// where there is none to read: the site gets its reason then.
[[nodiscard]] const Meta* known_meta(const NodeTable& table, NodeId node, Site& site,
                                     std::vector<NodeId>& missing);

}  // namespace spfast
