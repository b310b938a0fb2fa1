// This rank's rows of values that are there in full.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "rewrite/padding.h"
#include "rewrite/plan_builder.h"

namespace spfast {

class RankRows {
 public:
  RankRows(PlanBuilder& builder, Padding& padding)
      : builder_(builder), padding_(padding), table_(builder.table), sites_(builder.sites) {}
  // A view, with one leading dim, of a value that is the same for every token.
  NodeRef one_row(const Site& site, const SiteOperand& operand);
  // This rank's rows of a value that has a row for several tokens.
  NodeRef spread_rows(const Site& site, const SiteOperand& operand);
  // What a site reads in place of a value: its shard, or this rank's rows of it.
  NodeRef shard_of(const Site& site, const SiteOperand& operand);
  // How many rows a rank has: tokens / tp, rounded up. It is a node if the tokens are symbolic.
  PlanArg local_size(const Site& site, NodeId before);

 private:
  // A slice that all sites of the class read. If the value is written to in place, each reader gets
  // a slice of its own, cut when it reads: an earlier one would hold what stood there before.
  NodeRef own_rows(const Site& site, const SiteOperand& operand);
  // The sample that all of this rank's tokens belong to, if there is only one. It is asked of a
  // value that has a row for each sample.
  [[nodiscard]] std::optional<int64_t> own_sample(const Site& site, std::span<const Dim> lead,
                                                  std::span<const Dim> wanted) const;
  NodeRef reshape_to_one(const Site& site, const SiteOperand& operand, NodeRef value);
  std::pair<PlanArg, PlanArg> row_bounds(const Site& site, NodeId before);

  PlanBuilder& builder_;
  Padding& padding_;
  const NodeTable& table_;
  const Sites& sites_;
  std::map<std::pair<NodeId, uint32_t>, NodeRef> rows_;    // by value and token class
  std::map<std::pair<NodeId, size_t>, NodeRef> one_rows_;  // by value and number of feature dims
  std::map<std::tuple<NodeId, uint32_t, std::vector<int64_t>>, NodeRef> spread_;  // and dims
  std::map<uint32_t, std::pair<PlanArg, PlanArg>> bounds_;
  std::map<uint32_t, PlanArg> sizes_;
};

}  // namespace spfast
