// Decides which row-wise values are computed sharded: a minimum cut of the bytes that all_gathers
// would move, over the values that grow_rows reached.
#pragma once

#include "rewrite/row_growth.h"

namespace spfast {

// Adds to `sites` a region for each token class. Sites without a match become reduce_scatters, or
// get the reason why they stay. An all_reduce counts as a reduce_scatter and an all_gather, so that
// the result never moves more bytes than the graph did, nor takes more collectives for the same
// bytes.
//
// With `may_grow_anew`, it may return false with nothing settled: then the rows have to be grown
// anew. Either some values are better full in their class, are now barred from it, and could be
// sharded in another; or a matched site is better left, has that as its reason, and a part of it
// may still be worth sharding.
[[nodiscard]] bool cut_rows(const NodeTable& table, const RowRules& rules,
                            const MatchResult& matches, const Effects& effects,
                            const Replication& replication, Sites& sites, Costs costs,
                            bool may_grow_anew);

}  // namespace spfast
