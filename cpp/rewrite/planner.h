// Turns examined sites into a Plan.
#pragma once

#include "rewrite/plan.h"
#include "rewrite/sites.h"

namespace spfast {

// The sites without a reason are rewritten; one whose plan needs a size that nobody knows gets its
// reason here. Values whose meta is needed first are appended to `missing`; the plan is complete
// only when there are none.
[[nodiscard]] Plan make_plan(const NodeTable& table, const ProgramSet& programs,
                             const MatchResult& matches, std::span<const CollectiveFamily> families,
                             std::span<const GroupInfo> groups, Sites& sites,
                             const Effects& effects, std::vector<NodeId>& missing);

}  // namespace spfast
