// Takes the end off a matched site that only makes its results wider.
#pragma once

#include <span>

#include "match/match.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sites.h"

namespace spfast {

// A matched site is sharded as a whole or not at all, and what leaves it is gathered. A norm that
// is computed in four bytes and yields eight is gathered at half the cost before its last
// conversion. Such an end leaves the interior, to be grown row-wise: the cut decides about it.
void drop_wide_tails(const NodeTable& table, const RowRules& rules, std::span<const Anchor> anchors,
                     Sites& sites);

}  // namespace spfast
