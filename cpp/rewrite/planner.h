// Turns examined sites into a Plan.
#pragma once

#include <utility>
#include <variant>

#include "match/match.h"
#include "rewrite/collectives.h"
#include "rewrite/effects.h"
#include "rewrite/group_info.h"
#include "rewrite/plan.h"
#include "rewrite/sites.h"

namespace spfast {

// Why there is no plan yet. If it is empty, something was learned meanwhile, and planning is worth
// another try.
struct Unknown {
  std::vector<NodeId> values;                      // whose meta has to be read first
  std::vector<std::pair<uint32_t, Reason>> stays;  // sites that turn out to have to stay
  [[nodiscard]] bool empty() const { return values.empty() && stays.empty(); }
};

// The sites without a reason are rewritten.
[[nodiscard]] std::variant<Plan, Unknown> make_plan(const NodeTable& table,
                                                    const ProgramSet& programs,
                                                    const MatchResult& matches,
                                                    std::span<const CollectiveFamily> families,
                                                    std::span<const GroupInfo> groups,
                                                    const Sites& sites, const Effects& effects);

}  // namespace spfast
