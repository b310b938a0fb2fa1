// Values of matched sites that do not lie in memory as fresh tensors do: who reads them in full.
#pragma once

#include "match/match.h"
#include "rewrite/layouts.h"
#include "rewrite/sites.h"

namespace spfast {

// Such a value is gathered only for readers that see no difference; its site stays otherwise.
// Values that are not known yet go to `sites.missing`.
void check_strides(const NodeTable& table, const MatchResult& matches, const Layouts& layouts,
                   Sites& sites);

}  // namespace spfast
