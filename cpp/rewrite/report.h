// What is said of each all_reduce: what was done with it, or why it stays.
#pragma once

#include <string>
#include <vector>

#include "rewrite/group_info.h"
#include "rewrite/meta_source.h"
#include "rewrite/rules.h"
#include "rewrite/sites.h"

namespace spfast {

struct SiteReport {
  NodeId all_reduce = kNone;
  bool rewritten = false;
  std::string rule;     // that matched it; "rowwise" where the row-wise view took it
  std::string reason;   // why it stays, or why it is gathered where it is
  std::string nearest;  // where no rule holds, what the nearest one lacks
};

// What a report is about.
struct Reported {
  const Rules& rules;
  std::span<const GroupInfo> groups;
  const MatchResult& matches;
  const Sites& sites;
  bool patterns = true;  // whether the rules were tried
};

// One for each all_reduce, in graph order. Names are read where a text needs them.
[[nodiscard]] std::vector<SiteReport> report_sites(NodeTable& table, MetaSource& source,
                                                   const Reported& what);

}  // namespace spfast
