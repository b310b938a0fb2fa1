#include "rewrite/plan_builder.h"

#include <algorithm>

namespace spfast {

PlanBuilder::PlanBuilder(const NodeTable& table, const ProgramSet& programs,
                         const MatchResult& matches, std::span<const CollectiveFamily> families,
                         std::span<const GroupInfo> groups, const Sites& sites,
                         const Effects& effects)
    : table(table),
      programs(programs),
      matches(matches),
      families(families),
      groups(groups),
      sites(sites),
      effects(effects),
      edits(table, plan),
      site_of(table.size(), kNone),
      local(table.size(), kNone),
      layouts(table, nullptr),
      sources(table) {
  plan.classes = sites.classes;
  for (uint32_t i = 0; i < sites.sites.size(); ++i) {
    const Site& site = sites.sites[i];
    if (!site.reason.empty()) continue;
    if (site.scatters) site_of[anchor_of(site).reduced] = i;
    for (const NodeId node : site.interior) {
      site_of[node] = i;
      local[node] = node;
    }
  }
}

bool PlanBuilder::is_local_for(const Site& site, NodeId root) const {
  if (sites.layout.sum_at(root) != nullptr) return false;  // it ends in full
  return site_of[root] != kNone && sites.sites[site_of[root]].token_class == site.token_class;
}

std::vector<PlanArg> PlanBuilder::collective_args(const std::vector<CollectiveArg>& slots,
                                                  const Site& site, NodeRef input) const {
  const Anchor& anchor = anchor_of(site);
  const CollectiveFamily& family = families[anchor.family];
  std::vector<PlanArg> args;
  args.reserve(slots.size());
  for (const CollectiveArg& slot : slots) {
    switch (slot.kind) {
      case CollectiveArg::Kind::kInput:
        args.push_back(PlanArg::of(input));
        break;
      case CollectiveArg::Kind::kInt:
        args.push_back(PlanArg::integer(slot.value));
        break;
      case CollectiveArg::Kind::kWorldSize:
        args.push_back(PlanArg::integer(group_of(site).size));
        break;
      case CollectiveArg::Kind::kGroup:
        args.push_back(PlanArg::copy(anchor.call, family.match.group));
        break;
      case CollectiveArg::Kind::kReduceOp:
        args.push_back(PlanArg::copy(anchor.call, family.match.reduce_op));
        break;
    }
  }
  return args;
}

PlanArg PlanBuilder::flat_sizes(std::span<const Dim> features) {
  std::vector<PlanArg> sizes{PlanArg::integer(-1)};
  for (const Dim dim : features) sizes.push_back(PlanArg::integer(dim.raw));
  return PlanArg::sizes(std::move(sizes));
}

NodeRef PlanBuilder::create(TargetId target, std::vector<PlanArg> args, NodeId before,
                            NodeId origin, MetaSpec meta, NodeId kwargs_of) {
  return edits.create({.target = target,
                       .args = std::move(args),
                       .kwargs_of = kwargs_of,
                       .before = before,
                       .origin = origin,
                       .meta = meta});
}

NodeRef PlanBuilder::collective(const Site& site, TargetId target,
                                const std::vector<CollectiveArg>& slots, NodeRef input,
                                NodeId before, NodeId wait_before, NodeId origin, MetaSpec meta) {
  const TargetId wait = families[anchor_of(site).family].match.wait;
  const NodeRef result = create(target, collective_args(slots, site, input), before, origin, meta);
  if (wait == kNone) return result;
  return create(wait, {PlanArg::of(result)}, wait_before, origin, meta);
}

NodeRef PlanBuilder::all_reduce(uint32_t anchor, NodeRef part, NodeId before, NodeId origin,
                                MetaSpec meta) {
  const NodeId call = matches.anchors[anchor].call;
  const AllReduceFamily& family = families[matches.anchors[anchor].family].match;
  std::vector<PlanArg> args{PlanArg::of(part)};
  for (size_t i = 1; i < table.args(call).size(); ++i) {
    args.push_back(PlanArg::copy(call, static_cast<int64_t>(i)));
  }
  const NodeRef result = create(family.all_reduce, std::move(args), before, origin, meta);
  if (family.wait == kNone) return result;
  return create(family.wait, {PlanArg::of(result)}, before, origin, meta);
}

NodeRef PlanBuilder::full_value(NodeId root) const {
  const auto known = gathered.find(root);
  return known == gathered.end() ? root : known->second;
}

bool PlanBuilder::is_view(NodeId node) const {
  const auto args = table.args(node);
  return (table.flags(node) & target_flag::kView) != 0 && args.size() == 2 && args[0].is_node() &&
         is_sequence(args[1].tag);
}

const Meta* PlanBuilder::need(const Site& site, NodeId node) {
  const Meta& meta = table.meta(node);
  if (meta.kind == MetaKind::kTensor && !table.dims(meta).empty()) return &meta;
  if (meta.kind == MetaKind::kUnknown) {
    unknown.values.push_back(node);
  } else {
    refuse(site, {Reason::Kind::kUnknownSize, node, kNone, 0, 0});
  }
  return nullptr;
}

bool PlanBuilder::is_dense(const Site& site, NodeId node) {
  // The values of a site without strides of its own are not looked at.
  const Meta& known = table.meta(node);
  if (known.kind == MetaKind::kUnknown && !site.strided) return true;
  const Meta* meta = need(site, node);
  return meta == nullptr || layouts.is_dense(*meta);
}

std::optional<PlanArg> PlanBuilder::size_of(const Site& site, Dim dim, NodeId before) {
  if (!dim.is_expr()) return PlanArg::integer(dim.raw);
  if (const auto source = sources.find(dim, before)) {
    if (source->dim == kNone) return PlanArg::of(source->node);
    return PlanArg::of(create(sym_size, {PlanArg::of(source->node), PlanArg::integer(source->dim)},
                              before, source->node,
                              {MetaForm::kDimSize, source->node, site.token_class, source->dim}));
  }
  sources.want(unknown.values);
  return {};
}

std::optional<PlanArg> PlanBuilder::sizes_of(const Site& site, std::span<const Dim> dims,
                                             NodeId before) {
  const auto symbolic =
      std::count_if(dims.begin(), dims.end(), [](Dim dim) { return dim.is_expr(); });
  std::vector<PlanArg> sizes;
  for (const Dim dim : dims) {
    if (dim.is_expr() && symbolic == 1) {
      sizes.push_back(PlanArg::integer(-1));
    } else if (const auto size = size_of(site, dim, before)) {
      sizes.push_back(*size);
    } else {
      return {};
    }
  }
  return PlanArg::sizes(std::move(sizes));
}

NodeRef PlanBuilder::fresh(NodeRef value, NodeId before, NodeId origin, MetaSpec meta) {
  return edits.create({.target = clone,
                       .args = {PlanArg::of(value)},
                       .contiguous = true,
                       .before = before,
                       .origin = origin,
                       .meta = meta});
}

}  // namespace spfast
