// Examines each match: which of its values would be sharded, what it reads from outside, and
// whether its rewrite can be proved right. It asks for the metas of values that it needs.
#pragma once

#include <span>

#include "match/finder.h"
#include "rewrite/costs.h"
#include "rewrite/decided.h"
#include "rewrite/effects.h"
#include "rewrite/replication.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sites.h"

namespace spfast {

// A match that asks too much gives way to a shorter one that does not: they change places.
// With `rows`, all_reduces that no rule matched are examined too, and every site's values are
// followed through row-wise operators. What the graph contradicts is refuted in `replication`.
[[nodiscard]] Sites examine_sites(const NodeTable& table, const ProgramSet& programs,
                                  MatchResult& matches, std::span<const GroupInfo> groups,
                                  std::span<const JudgedClass> judged, const Effects& effects,
                                  Replication& replication, std::span<const HeldSite> held = {},
                                  const RowRules* rows = nullptr, Costs costs = {});

}  // namespace spfast
