// Grows the row-wise view: from reduced values along the data flow through operators that treat
// every token alone, until values that need all tokens.
#pragma once

#include "match/match.h"
#include "rewrite/effects.h"
#include "rewrite/replication.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sites.h"

namespace spfast {

// Fills `sites.layout` from the sites that are there: values of sites with a match are sharded
// already, the reduced values of the others may be. Returns false when it has to know more values
// first (`sites.missing`).
[[nodiscard]] bool grow_rows(const NodeTable& table, const RowRules& rules,
                             const MatchResult& matches, const Effects& effects,
                             const Replication& replication, Sites& sites);

}  // namespace spfast
