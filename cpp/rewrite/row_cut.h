// Decides which row-wise values are computed sharded: a minimum cut of the bytes that all_gathers
// would move, over the values that grow_rows reached.
#pragma once

#include "match/match.h"
#include "rewrite/costs.h"
#include "rewrite/effects.h"
#include "rewrite/replication.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sites.h"

namespace spfast {

// Adds to `sites` a region for each token class. Sites without a match become reduce_scatters, or
// get the reason why they stay. An all_reduce counts as a reduce_scatter and an all_gather. So the
// result never moves more bytes than the graph did, nor takes more collectives for the same bytes.
//
// With `may_grow_anew`, it may return false. Then nothing is settled, and the rows have to be grown
// anew. There are two causes. Some values may be better full in their class; they are barred from
// it now, and could be sharded in another. Or a matched site may be better left; it has its reason
// now, and a part of it may still be worth sharding.
[[nodiscard]] bool cut_rows(const NodeTable& table, const RowRules& rules,
                            const MatchResult& matches, const Effects& effects,
                            const Replication& replication, Sites& sites, Costs costs,
                            bool may_grow_anew);

}  // namespace spfast
