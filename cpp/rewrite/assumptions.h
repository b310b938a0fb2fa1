// What a rewrite takes on trust: values that are read beside a shard and are not proved to be the
// same on every rank. Several together may contradict the graph where none does alone.
#pragma once

#include <span>
#include <vector>

#include "match/match.h"
#include "rewrite/replication.h"
#include "rewrite/sites.h"

namespace spfast {

struct Assumption {
  NodeId value = kNone;
  NodeId reader = kNone;  // the first that reads it beside a shard
  uint32_t group = 0;
};

// What does not follow from the assumptions before it, in graph order.
[[nodiscard]] std::vector<Assumption> find_assumptions(const NodeTable& table,
                                                       std::span<const Anchor> anchors,
                                                       const Sites& sites,
                                                       const Replication& replication);

// Whether some collective would be for nothing if all assumptions held: what it rests on is refuted
// then, and the sites are to be examined anew.
[[nodiscard]] bool refute_assumptions(const NodeTable& table, std::span<const Anchor> anchors,
                                      const Sites& sites, Replication& replication);

}  // namespace spfast
