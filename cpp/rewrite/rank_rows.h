// This rank's rows of values that are there in full.
#pragma once

#include <map>
#include <utility>

#include "rewrite/draft.h"

namespace spfast {

class RankRows {
 public:
  explicit RankRows(Draft& draft) : draft_(draft), table_(draft.table), sites_(draft.sites) {}
  // What a site reads in place of a value: its shard, or this rank's rows of it.
  NodeRef shard_of(const Site& site, const SiteOperand& operand);
  // tokens / tp: a number, or a node for a symbolic number of tokens.
  PlanArg local_size(const Site& site, NodeId before);

 private:
  // Once for all sites of the class. A value that is written to in place is cut anew each time: a
  // slice shows what stands there when it is read.
  NodeRef own_rows(const Site& site, const SiteOperand& operand);
  std::pair<PlanArg, PlanArg> row_bounds(const Site& site, NodeId before);

  Draft& draft_;
  const NodeTable& table_;
  const Sites& sites_;
  std::map<std::pair<NodeId, uint32_t>, NodeRef> rows_;  // by value and token class
  std::map<uint32_t, std::pair<PlanArg, PlanArg>> bounds_;
  std::map<uint32_t, PlanArg> sizes_;
};

}  // namespace spfast
