// Sums over all tokens: of one rank's rows they yield its part, and an all_reduce of the parts is
// the sum. A norm's weight gradient is one, and so is that of a bias.
#pragma once

#include "match/match.h"
#include "rewrite/effects.h"
#include "rewrite/sites.h"

namespace spfast {

// Fills `sites.layout.sums` from the row-wise values that are there.
void find_token_sums(const NodeTable& table, const MatchResult& matches, const Effects& effects,
                     Sites& sites);

}  // namespace spfast
