// Decides which row-wise values are computed sharded: a minimum cut of the bytes that all_gathers
// would move, over the values that grow_rows reached.
#pragma once

#include "rewrite/row_growth.h"

namespace spfast {

// Adds to `sites` a region for each token class, and settles which of the sites without a match
// become reduce_scatters; the others get their reason. With `may_grow_anew`: returns false, with
// nothing settled, when values that are better full in their class could be sharded in another:
// they are barred from it, and the rows are to be grown anew.
[[nodiscard]] bool cut_rows(const NodeTable& table, const RowRules& rules,
                            const MatchResult& matches, const Effects& effects,
                            const Replication& replication, Sites& sites, bool may_grow_anew);

}  // namespace spfast
