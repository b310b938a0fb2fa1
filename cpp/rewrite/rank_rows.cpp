#include "rewrite/rank_rows.h"

#include "base/check.h"

namespace spfast {

NodeRef RankRows::shard_of(const Site& site, const SiteOperand& operand) {
  return draft_.is_local_for(site, operand.root) ? draft_.local[operand.root]
                                                 : own_rows(site, operand);
}

NodeRef RankRows::own_rows(const Site& site, const SiteOperand& operand) {
  const std::pair key{operand.root, site.token_class};
  if (const auto known = rows_.find(key); known != rows_.end()) return known->second;
  const NodeId before = operand.user;
  NodeRef full = draft_.full_value(operand.root);
  const Meta* meta = draft_.need(site, operand.root);
  const size_t features = operand.features;
  const size_t rank = meta == nullptr ? features + 1 : table_.dims(*meta).size();
  const MetaSpec flat{MetaForm::kFlat, operand.root, site.token_class, operand.features};
  if (rank > features + 1 && full == operand.root) {
    const PlanArg sizes = Draft::flat_sizes(table_.dims(*meta).last(features));
    full = draft_.create(draft_.reshape, {PlanArg::of(full), sizes}, before, operand.root, flat);
  }
  const auto [start, end] = row_bounds(site, before);
  const NodeRef slice = draft_.create(
      draft_.slice, {PlanArg::of(full), PlanArg::integer(0), start, end}, before, operand.root,
      {MetaForm::kLocal, operand.root, site.token_class, operand.features});
  if (draft_.effects.writer_of(operand.root) == kNone) rows_.emplace(key, slice);
  return slice;
}

std::pair<PlanArg, PlanArg> RankRows::row_bounds(const Site& site, NodeId before) {
  const GroupInfo& group = draft_.group_of(site);
  const PlanArg size = local_size(site, before);
  if (size.kind == PlanArg::Kind::kInt) {
    return {PlanArg::integer(group.rank * size.value),
            PlanArg::integer((group.rank + 1) * size.value)};
  }
  if (const auto known = bounds_.find(site.token_class); known != bounds_.end()) {
    return known->second;
  }
  // Every rank makes the same nodes, names included: 0 and 1 are factors like any other.
  const auto scaled = [&](int64_t factor) {
    return PlanArg::of(draft_.create(
        draft_.mul, {size, PlanArg::integer(factor)}, before, draft_.anchor_of(site).all_reduce,
        {MetaForm::kScaled, draft_.anchor_of(site).all_reduce, site.token_class, factor}));
  };
  const PlanArg start = scaled(group.rank);
  const PlanArg end = scaled(group.rank + 1);
  return bounds_.emplace(site.token_class, std::pair{start, end}).first->second;
}

PlanArg RankRows::local_size(const Site& site, NodeId before) {
  const Dim tokens = sites_.classes[site.token_class].tokens;
  if (!tokens.is_expr()) return PlanArg::integer(tokens.raw / draft_.group_of(site).size);
  const auto known = sizes_.find(site.token_class);
  if (known != sizes_.end()) return known->second;
  const Anchor& anchor = draft_.anchor_of(site);
  // A row-wise region may read rows before its own all_reduce: any shard of the class will do then.
  NodeRef shard = draft_.local[anchor.reduced];
  if (shard == kNone) {
    const auto other = draft_.scattered.find(site.token_class);
    SPFAST_CHECK(other != draft_.scattered.end());
    shard = other->second;
  }
  const PlanArg size = PlanArg::of(draft_.create(
      draft_.sym_size, {PlanArg::of(shard), PlanArg::integer(0)}, before, anchor.all_reduce,
      {MetaForm::kLocalSize, anchor.all_reduce, site.token_class, 1}));
  sizes_.emplace(site.token_class, size);
  return size;
}

}  // namespace spfast
