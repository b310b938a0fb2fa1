// Match, examine and plan a table in one call.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "graphs.h"
#include "rewrite/planner.h"

namespace spfast::testing {

struct Ranks {
  int64_t size = 4;
  int64_t rank = 1;
};

// Each group that the anchors name, all with the same ranks.
inline std::vector<GroupInfo> groups_of(const NodeTable& table, Ranks ranks) {
  std::vector<GroupInfo> groups;
  const auto families = anchor_families();
  for (const Anchor& anchor : find_anchors(table, families)) {
    if (!is_group(anchor.group)) continue;
    const bool known =
        !groups.empty() && (groups.back().group == anchor.group ||
                            std::any_of(groups.begin(), groups.end(), [&](const GroupInfo& one) {
                              return one.group == anchor.group;
                            }));
    if (!known) groups.push_back({anchor.group, ranks.size, ranks.rank, {}});
  }
  return groups;
}

struct Planned {
  NodeTable table;
  std::vector<GroupInfo> groups;
  MatchResult matches;
  Sites sites;
  Plan plan;
  std::vector<NodeId> missing;  // values whose size the plan wanted to know

  [[nodiscard]] std::string text() const { return format_plan(table, plan); }
  [[nodiscard]] std::string reason(size_t site) const {
    return format_reason(table, groups, sites.classes, sites.sites.at(site).reason);
  }
  [[nodiscard]] size_t rewritten() const {
    return static_cast<size_t>(std::count_if(sites.sites.begin(), sites.sites.end(),
                                             [](const Site& site) { return site.reason.empty(); }));
  }
  [[nodiscard]] size_t created(const char* target) const {
    return static_cast<size_t>(
        std::count_if(plan.created.begin(), plan.created.end(),
                      [&](const Created& made) { return made.target == intern_target(target); }));
  }
};

inline Planned plan_with(NodeTable table, std::vector<GroupInfo> groups,
                         const ProgramSet& programs = all_programs(),
                         const std::vector<RefusedClass>& refused = {},
                         const RowRules* rows = nullptr, Trust trust = {}) {
  Planned out{std::move(table), std::move(groups), {}, {}, {}, {}};
  const auto all = families();
  const auto anchors = anchor_families();
  out.matches = find_matches(out.table, programs, anchors);
  const Effects effects(out.table);
  static const RowRules known = row_rules();
  Replication replication(out.table, effects, known, all, out.groups, std::move(trust));
  out.sites = examine_sites(out.table, programs, out.matches, out.groups, refused, effects,
                            replication, {}, rows);
  out.missing = out.sites.missing;
  out.plan =
      make_plan(out.table, programs, out.matches, all, out.groups, out.sites, effects, out.missing);
  return out;
}

inline Planned plan_of(NodeTable table, Ranks ranks = {}, const RowRules* rows = nullptr) {
  std::vector<GroupInfo> groups = groups_of(table, ranks);
  return plan_with(std::move(table), std::move(groups), all_programs(), {}, rows);
}

// With the row-wise recogniser beside the patterns.
inline Planned plan_of_both(NodeTable table, Ranks ranks = {}) {
  static const RowRules rows = row_rules();
  return plan_of(std::move(table), ranks, &rows);
}

}  // namespace spfast::testing
