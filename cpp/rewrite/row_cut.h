// Decides which row-wise values are computed sharded: a minimum cut of the bytes that all_gathers
// would move, over the values that grow_rows reached.
#pragma once

#include "rewrite/row_growth.h"

namespace spfast {

// Adds to `sites` a region for each token class, and settles which of the sites without a match
// become reduce_scatters; the others get their reason. An all_reduce counts as a reduce_scatter and
// a gather: what is sharded never moves more bytes than before, nor takes more collectives for the
// same bytes. With `may_grow_anew`: returns false, with nothing settled, when the rows are to be
// grown anew: values that are better full in their class could be sharded in another, and are
// barred from it; or a matched site is better left, and got that reason, though a part of it may
// still be worth it.
[[nodiscard]] bool cut_rows(const NodeTable& table, const RowRules& rules,
                            const MatchResult& matches, const Effects& effects,
                            const Replication& replication, Sites& sites, Costs costs,
                            bool may_grow_anew);

}  // namespace spfast
