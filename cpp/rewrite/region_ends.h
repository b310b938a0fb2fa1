// Why a rewritten all_reduce is gathered before a quantisation that could have come first.
#pragma once

#include <map>

#include "match/match.h"
#include "rewrite/sites.h"

namespace spfast {

// By anchor: the reason of the first operator behind it that lays its result out in blocks, and was
// left to all tokens because a rank's share is not whole blocks.
[[nodiscard]] std::map<uint32_t, Reason> region_ends(const NodeTable& table,
                                                     const MatchResult& matches,
                                                     const Sites& sites);

}  // namespace spfast
