// Decides which row-wise values are computed sharded: a minimum cut of the bytes that all_gathers
// would move, over the values that grow_rows reached.
#pragma once

#include "rewrite/row_growth.h"

namespace spfast {

// Adds to `sites` a region for each token class, and settles which of the sites without a match
// become reduce_scatters; the others get their reason.
void cut_rows(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
              const Effects& effects, Sites& sites);

}  // namespace spfast
