// A plan in the making: what the parts of the planner read, and what each has created so far.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "match/match.h"
#include "rewrite/collectives.h"
#include "rewrite/edit_list.h"
#include "rewrite/effects.h"
#include "rewrite/group_info.h"
#include "rewrite/layouts.h"
#include "rewrite/plan.h"
#include "rewrite/planner.h"
#include "rewrite/sites.h"
#include "rewrite/size_sources.h"
#include "table/targets.h"

namespace spfast {

using MetaForm = MetaSpec::Form;

struct PlanBuilder {
  PlanBuilder(const NodeTable& table, const ProgramSet& programs, const MatchResult& matches,
              std::span<const CollectiveFamily> families, std::span<const GroupInfo> groups,
              const Sites& sites, const Effects& effects);
  // `edits` writes to the plan that stands beside it.
  PlanBuilder(const PlanBuilder&) = delete;
  PlanBuilder& operator=(const PlanBuilder&) = delete;

  [[nodiscard]] const Anchor& anchor_of(const Site& site) const {
    return matches.anchors[site.anchor];
  }
  [[nodiscard]] LookThrough look_of(const Site& site) const {
    return matches.look(table.dims(table.meta(anchor_of(site).all_reduce)).back().raw);
  }
  // The value behind a node's views and copies.
  [[nodiscard]] NodeId root_of(const Site& site, NodeId node) const {
    return sites.layout.root(look_of(site).root(node));
  }
  [[nodiscard]] const GroupInfo& group_of(const Site& site) const {
    return groups[sites.classes[site.token_class].group];
  }
  [[nodiscard]] int64_t features_of(NodeId node) const { return sites.layout.features_of(node); }
  // Whether a value is sharded over the same rows of the same group: then the site may read the
  // shard as it is.
  [[nodiscard]] bool is_local_for(const Site& site, NodeId root) const;
  // Creates the sum of `part` over the ranks that an anchor sums over.
  NodeRef all_reduce(uint32_t anchor, NodeRef part, NodeId before, NodeId origin, MetaSpec meta);
  // The node that holds all rows of a value. For a value of a site, and for a view of one that an
  // all_gather replaces, that is the all_gather.
  [[nodiscard]] NodeRef full_value(NodeId root) const;
  [[nodiscard]] bool is_view(NodeId node) const;
  // Null where the meta is not known, and this plan is thrown away. If the meta was not read yet,
  // the next plan has it. If there is none to read, the site stays.
  const Meta* need(const Site& site, NodeId node);

  // Whether a value's strides are those of a fresh tensor.
  [[nodiscard]] bool is_dense(const Site& site, NodeId node);
  // The arguments of a view that makes these dims. A single symbolic dim is written as -1. Several
  // are read from nodes before `before` that have such a size; absent where there is none.
  std::optional<PlanArg> sizes_of(const Site& site, std::span<const Dim> dims, NodeId before);
  std::optional<PlanArg> size_of(const Site& site, Dim dim, NodeId before);
  void refuse(const Site& site, const Reason& why) {
    unknown.stays.emplace_back(static_cast<uint32_t>(&site - sites.sites.data()), why);
  }
  // A copy with the strides of a fresh tensor: collectives take memory as it is.
  NodeRef fresh(NodeRef value, NodeId before, NodeId origin, MetaSpec meta);

  // The sizes of a view that has all tokens in its first dim, followed by these dims.
  [[nodiscard]] static PlanArg flat_sizes(std::span<const Dim> features);
  NodeRef create(TargetId target, std::vector<PlanArg> args, NodeId before, NodeId origin,
                 MetaSpec meta, NodeId kwargs_of = kNone);
  // Creates a collective and, where the family has one, its wait. What stands between `before` and
  // `wait_before` runs while the collective does.
  NodeRef collective(const Site& site, TargetId target, const std::vector<CollectiveArg>& slots,
                     NodeRef input, NodeId before, NodeId wait_before, NodeId origin,
                     MetaSpec meta);

  const NodeTable& table;
  const ProgramSet& programs;
  const MatchResult& matches;
  std::span<const CollectiveFamily> families;
  std::span<const GroupInfo> groups;
  const Sites& sites;
  const Effects& effects;
  Unknown unknown;
  Plan plan;
  EditList edits;
  std::vector<uint32_t> site_of;          // by node: the rewritten site that it is a value of
  std::vector<NodeRef> local;             // by value of a site: its shard
  std::map<uint32_t, NodeRef> scattered;  // by token class: the first shard
  std::map<NodeId, NodeRef> gathered;     // by value or view of one: the flat all_gather
  Layouts layouts;
  SizeSources sources;

  const TargetId reshape = intern_target("aten.reshape.default");
  const TargetId clone = intern_target("aten.clone.default");
  const TargetId expand = intern_target("aten.expand.default");
  const TargetId view_dtype = intern_target("aten.view.dtype");
  const TargetId slice = intern_target("aten.slice.Tensor");
  const TargetId sym_size = intern_target("aten.sym_size.int");
  const TargetId pad = intern_target("aten.constant_pad_nd.default");
  const TargetId add = intern_target("_operator.add");
  const TargetId sub = intern_target("_operator.sub");
  const TargetId mul = intern_target("_operator.mul");
  const TargetId floordiv = intern_target("_operator.floordiv");

 private:
  [[nodiscard]] std::vector<PlanArg> collective_args(const std::vector<CollectiveArg>& slots,
                                                     const Site& site, NodeRef input) const;
};

}  // namespace spfast
